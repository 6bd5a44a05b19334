"""What OpenAI's two generating routes share: sampling, growth, usage, log-probabilities; and the list of models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgcore.engine.generation import Changes, Generation
from sgcore.engine.messages import SamplingParams, TokenLogprobs
from sgcore.engine.outputs import finite
from sgcore.engine.sampling import ALIASES, CONSTRAINTS, sampling_from
from sgcore.errors import RequestError
from sgcore.server.fields import UnsupportedOpenAI, refuse_unsupported
from sgcore.server.protocol import (
    ChatTokenLogprob,
    ModelCard,
    ModelList,
    PromptLogprob,
    PromptLogprobs,
    PromptTokensDetails,
    Shared,
    StreamOptions,
    TopLogprob,
    Usage,
)
from sgcore.server.service import Service, raise_if_failed
from sgcore.server.wire import json_response

SAME_NAMES = (
    "n temperature top_p top_k min_p frequency_penalty presence_penalty repetition_penalty logit_bias seed "
    "stop stop_regex "
    "stop_token_ids allowed_token_ids bad_words ignore_eos no_stop_trim include_stop_str_in_output "
    "skip_special_tokens spaces_between_special_tokens "
    "json_schema regex ebnf structural_tag choice constraint_after "
    "guided_json guided_regex guided_grammar guided_choice"
).split()
CONSTRAINT_NAMES = frozenset(CONSTRAINTS) | {name for name, native in ALIASES.items() if native in CONSTRAINTS}
STRUCTURED_OUTPUTS = {
    "json": "json_schema",
    "json_object": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "ebnf",
    "structural_tag": "structural_tag",
}
"""Field of `structured_outputs` -> sampling parameter."""
ANY_OBJECT = '{"type": "object"}'
MAX_TOP_LOGPROBS = 20


SAMPLING_FIELDS = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "sampling_seed": "seed"}


def field_names(body: Shared, prompt_field: str, top_field: str) -> dict[str, str]:
    """What errors call our fields: the route's names, and of several names of one thing the one that was sent."""
    names = SAMPLING_FIELDS | dict.fromkeys(("text", "input_ids", "prompt"), prompt_field)
    names["top_logprobs_num"] = top_field
    if body.request_id is not None and body.rid is None:
        names["rid"] = "request_id"
    if body.extra_key and not body.cache_salt:
        names["cache_salt"] = "extra_key"
    if body.response_format is not None:
        names |= dict.fromkeys(("json_schema", "structural_tag"), "response_format")
    if body.structured_outputs is not None:
        names |= dict.fromkeys(STRUCTURED_OUTPUTS.values(), "structured_outputs")
    sent = (name for name in SAME_NAMES if name in ALIASES and getattr(body, name) is not None)
    return names | {ALIASES[name]: name for name in sent}


def sampling_of(body: Shared, max_tokens: int | None, defaults: dict[str, Any]) -> SamplingParams:
    """Sampling parameters of an OpenAI request. Without `max_tokens` the context is the limit."""
    values = {name: getattr(body, name) for name in SAME_NAMES}
    values |= _constraint(body, values)
    values |= {"max_new_tokens": max_tokens, "min_new_tokens": body.min_tokens}
    return sampling_from(values, defaults, fill_context=True)


def _constraint(body: Shared, values: dict[str, Any]) -> dict[str, Any]:
    """The sampling parameter that `response_format` or `structured_outputs` stands for. Raises `RequestError` 400."""
    has_format = body.response_format is not None and body.response_format.type != "text"
    sent = ["response_format"] if has_format else []
    sent += ["structured_outputs"] if body.structured_outputs is not None else []
    if not sent:
        return {}
    sent += [name for name in SAME_NAMES if name in CONSTRAINT_NAMES and values[name] is not None]
    if len(sent) > 1:
        raise RequestError(f"{sent[0]} and {sent[1]} exclude each other", param=sent[1])
    return _format_constraint(body) if has_format else _structured_outputs(body)


def _structured_outputs(body: Shared) -> dict[str, Any]:
    wanted = body.structured_outputs
    assert wanted is not None
    if wanted.disable_additional_properties or wanted.whitespace_pattern is not None:
        name = "whitespace_pattern" if wanted.whitespace_pattern is not None else "disable_additional_properties"
        message = f"structured_outputs.{name} is not supported by this server"
        raise RequestError(message, param="structured_outputs", code="unsupported_parameter")
    given = [name for name in STRUCTURED_OUTPUTS if getattr(wanted, name) not in (None, False)]
    given += ["json"] if wanted.json is False else []
    if len(given) != 1:
        names = ", ".join(STRUCTURED_OUTPUTS)
        message = f"structured_outputs holds one of {names}, got {' and '.join(given) or 'none of them'}"
        raise RequestError(message, param="structured_outputs")
    value = ANY_OBJECT if given == ["json_object"] else getattr(wanted, given[0])
    return {STRUCTURED_OUTPUTS[given[0]]: value}


def _format_constraint(body: Shared) -> dict[str, Any]:
    wanted = body.response_format
    assert wanted is not None
    if wanted.type == "json_object":
        return {"json_schema": ANY_OBJECT}
    if wanted.type == "json_schema":
        schema = None if wanted.json_schema is None else wanted.json_schema.schema
        if schema is None:
            raise RequestError("response_format has no json_schema.schema", param="response_format")
        return {"json_schema": schema}
    if wanted.type == "structural_tag":
        return {"structural_tag": msgspec.json.encode(wanted).decode()}
    message = f"response_format {wanted.type[:64]!r} is unknown; use text, json_object, json_schema or structural_tag"
    raise RequestError(message, param="response_format", code="unsupported_parameter")


def refuse_not_yet(body: Shared) -> None:
    """Raise `RequestError` 400 for what would change the answer if it were ignored."""
    refuse_unsupported(body, UnsupportedOpenAI)
    options = body.stream_options or StreamOptions()
    if not body.stream and (options.include_usage or options.continuous_usage_stats):
        raise RequestError("stream_options needs stream: true", param="stream_options")


def prompt_fields(body: Shared) -> dict[str, Any]:
    """Fields of a `Prompt` that both routes have by the same names."""
    return {
        "timeout_s": body.timeout,
        "namespace": body.cache_salt or body.extra_key or "",
        "keep_tokens": body.truncate_prompt_tokens,
        "keeps_end": body.truncation_side != "right",
    }


def check_top_logprobs(count: int, param: str) -> int:
    """The number of alternatives asked for. Raises `RequestError` 400 outside 0 to 20."""
    if not 0 <= count <= MAX_TOP_LOGPROBS:
        raise RequestError(f"{param} must be from 0 to {MAX_TOP_LOGPROBS}, got {count}", param=param)
    return count


@dataclass
class Growth:
    """How much of one generation the client has."""

    chars: int = 0
    tokens: int = 0
    ids: int = 0
    is_done: bool = False


@dataclass(frozen=True)
class News:
    """What is new of one generation."""

    position: int
    generation: Generation
    is_first: bool
    text: str
    logprobs: list[TokenLogprobs]
    """Of prompt positions first, where they were asked for."""
    token_ids: list[int]


class Tracker:
    """Turns cumulative generations into what is new since the last look."""

    def __init__(self, wants_logprobs: bool, wants_empty: bool, wants_ids: bool = False) -> None:
        self.wants_logprobs = wants_logprobs
        self.wants_empty = wants_empty
        self.wants_ids = wants_ids
        self.growth: dict[tuple[int, int], Growth] = {}
        self.latest: dict[tuple[int, int], Generation] = {}

    def news(self, changes: Changes) -> Iterator[News]:
        """What the client hasn't seen. Raises `RequestError` for a generation that failed."""
        for position, generation in changes:
            raise_if_failed(generation)
            key = position, generation.index
            is_first = key not in self.growth
            growth = self.growth.setdefault(key, Growth())
            self.latest[key] = generation
            if growth.is_done:
                continue
            news = self._take(position, generation, growth, is_first)
            has_any = news.text or news.logprobs or news.token_ids
            if is_first or has_any or growth.is_done or self.wants_empty:
                yield news

    def _take(self, position: int, generation: Generation, growth: Growth, is_first: bool) -> News:
        text = generation.text[growth.chars :]
        logprobs: list[TokenLogprobs] = []
        if self.wants_logprobs:
            logprobs = (generation.prompt_logprobs + generation.logprobs)[growth.tokens :]
        ids = generation.output_ids[growth.ids :] if self.wants_ids else []
        news = News(position, generation, is_first, text, logprobs, ids)
        growth.ids += len(ids)
        growth.chars += len(text)
        growth.tokens += len(logprobs)
        growth.is_done = generation.is_finished
        return news

    def usage(self) -> Usage:
        """Usage of everything seen so far."""
        return usage_of(self.latest.values())


def usage_of(generations: Iterable[Generation]) -> Usage:
    """Tokens of a request; the samples of a prompt share its prompt tokens."""
    prompt = completion = cached = 0
    for generation in generations:
        completion += len(generation.output_ids)
        if generation.index == 0:
            prompt += len(generation.prompt_ids)
            cached += generation.cached_tokens
    return Usage(prompt, completion, prompt + completion, PromptTokensDetails(cached))


class IdNames:
    """Names tokens by their ids, which clients can read back, where a tokenizer would give their texts."""

    def token_text(self, token: int) -> str:
        return f"token_id:{token}"

    def token_bytes(self, token: int) -> bytes:
        return self.token_text(token).encode()


def asked_prompt_logprobs(body: Shared) -> int:
    """How many alternatives of each prompt position are asked for; -1: no log-probabilities of the prompt."""
    if body.prompt_logprobs is None:
        return -1
    if body.stream:
        raise RequestError("prompt_logprobs are not given in a stream", param="prompt_logprobs")
    return check_top_logprobs(body.prompt_logprobs, "prompt_logprobs")


def prompt_logprobs(entries: list[TokenLogprobs], count: int, tokenizer: Any) -> PromptLogprobs:
    """Log-probabilities of a prompt: of each position its own token and the `count` most probable ones."""
    return [None if entry.logprob is None else _ranked(entry, count, tokenizer) for entry in entries]


def _ranked(entry: TokenLogprobs, count: int, tokenizer: Any) -> dict[int, PromptLogprob]:
    pairs: list[tuple[float | None, int, int | None]] = [(entry.logprob, entry.token, None)]
    pairs += [(logprob, token, rank) for rank, (logprob, token) in enumerate(entry.top[:count], 1)]
    return {
        token: PromptLogprob(finite(logprob) or 0.0, rank, tokenizer.token_text(token))
        for logprob, token, rank in pairs
    }


def chat_logprobs(entries: list[TokenLogprobs], count: int, tokenizer: Any) -> list[ChatTokenLogprob]:
    """Log-probabilities in the chat route's shape, with `count` alternatives."""
    return [
        ChatTokenLogprob(*_scored(entry.token, entry.logprob, tokenizer), [
            TopLogprob(*_scored(token, logprob, tokenizer)) for logprob, token in entry.top[:count]
        ])
        for entry in entries
    ]  # fmt: skip


def _scored(token: int, logprob: float | None, tokenizer: Any) -> tuple[str, float, list[int]]:
    return tokenizer.token_text(token), finite(logprob) or 0.0, list(tokenizer.token_bytes(token))


def card(service: Service) -> ModelCard:
    """The served model."""
    frontend: Any = service.frontend
    return ModelCard(
        service.name, int(service.started), frontend.plan.choices.model.model_path, frontend.context_tokens
    )


async def models(request: Request) -> Response:
    """List the models."""
    return json_response(ModelList([card(request.app.state.service)]))


async def model(request: Request) -> Response:
    """Show one model."""
    service: Service = request.app.state.service
    service.check_model(request.path_params["model_id"])
    return json_response(card(service))
