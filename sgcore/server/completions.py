"""`/v1/completions`."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from sgcore.engine.generation import Generation
from sgcore.engine.messages import TokenLogprobs
from sgcore.engine.outputs import finite
from sgcore.engine.prompt import Prompt
from sgcore.engine.sampling import MAX_SAMPLES
from sgcore.errors import RequestError
from sgcore.server.native import check_ids, count_of, request_ids
from sgcore.server.openai import (
    IdNames,
    News,
    Tracker,
    asked_prompt_logprobs,
    check_top_logprobs,
    field_names,
    prompt_fields,
    prompt_logprobs,
    refuse_not_yet,
    sampling_of,
    usage_of,
)
from sgcore.server.protocol import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    StreamOptions,
    Usage,
)
from sgcore.server.service import BYTES_A_CHAR, Service
from sgcore.server.sse import EventStream, event, or_disconnect
from sgcore.server.wire import ENCODER, json_response, read
from sgcore.tokenizer.detokenizer import Detokenizer, Offsets

DEFAULT_MAX_TOKENS = 16
DECODER = msgspec.json.Decoder(CompletionRequest)


def _inputs(service: Service, body: CompletionRequest) -> list[tuple[str | None, list[int] | None]]:
    given = body.prompt
    if isinstance(given, str):
        return [(given, None)]
    if not given:
        raise RequestError("prompt is an empty list", param="prompt")
    service.check_count(count_of(given) if not isinstance(given[0], str) else len(given), "prompt")
    if all(isinstance(entry, str) for entry in given):
        return [(str(entry), None) for entry in given]
    if all(isinstance(entry, list) for entry in given):
        return [(None, check_ids(entry, "prompt")) for entry in given if isinstance(entry, list)]
    return [(None, check_ids(given, "prompt"))]


def _prompts(service: Service, body: CompletionRequest) -> list[Prompt]:
    refuse_not_yet(body)
    if body.tools:
        raise RequestError("tools are for /v1/chat/completions", param="tools")
    if body.suffix:
        raise RequestError("suffix is not supported by this server", param="suffix", code="unsupported_parameter")
    assert service.tokenizer
    inputs = _inputs(service, body)
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    sampling = sampling_of(body, max_tokens, service.defaults)
    if body.best_of:
        sampling = msgspec.structs.replace(sampling, n=_checked_best_of(body, body.best_of))
    top = -1 if body.logprobs is None else check_top_logprobs(body.logprobs, "logprobs")
    of_prompt = asked_prompt_logprobs(body)
    start = 0 if of_prompt >= 0 or (body.echo and top >= 0) else -1
    service.check_count(sampling.n * len(inputs), "best_of" if body.best_of else "n")
    rids = request_ids(body.rid or body.request_id, len(inputs), "cmpl-")
    return [
        Prompt(
            text=text,
            input_ids=ids,
            sampling=sampling,
            rid=rid,
            top_logprobs=max(top, of_prompt, 0 if body.best_of else -1),
            logprob_start=start,
            add_special_tokens=body.add_special_tokens is not False,
            **prompt_fields(body),
        )
        for rid, (text, ids) in zip(rids, inputs, strict=True)
    ]


def _checked_best_of(body: CompletionRequest, best_of: int) -> int:
    """How many samples are drawn. Raises `RequestError` 400 for fewer than are asked for, and in a stream."""
    count = body.n or 1
    if not count <= best_of <= MAX_SAMPLES:
        raise RequestError(f"best_of must be from n ({count}) to {MAX_SAMPLES}, got {best_of}", param="best_of")
    if body.stream and best_of > count:
        raise RequestError("best_of above n can't be streamed: the best are known at the end", param="best_of")
    return best_of


def best(samples: list[Generation], count: int) -> list[Generation]:
    """The `count` samples whose tokens are the most probable on average, the best first."""
    if len(samples) == count:
        return samples
    ranked = sorted(samples, key=_mean_logprob, reverse=True)
    return [replace(generation, index=index) for index, generation in enumerate(ranked[:count])]


def _mean_logprob(generation: Generation) -> float:
    logprobs = [entry.logprob or 0.0 for entry in generation.logprobs]
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf


class Replies:
    """Makes the choices of one request's answer."""

    def __init__(self, service: Service, body: CompletionRequest, prompts: list[Prompt]) -> None:
        self.service = service
        self.tokenizer = service.tokenizer
        self.body = body
        self.prompts = prompts
        self.names = IdNames() if body.return_tokens_as_token_ids else service.tokenizer
        self.samples = (body.n or 1) if body.best_of else prompts[0].sampling.n
        self.offsets: dict[int, Offsets] = {}
        self.texts = [None if prompt.keep_tokens else prompt.text for prompt in prompts]
        self.head = Completion(_shared_id(prompts), int(time.time()), service.check_model(body.model), [])

    def index(self, position: int, generation: Generation) -> int:
        """The choice's place: samples of one prompt stand together."""
        return position * self.samples + generation.index

    def echo(self, position: int, generation: Generation) -> str:
        """The prompt's text, if it is to be repeated."""
        if not self.body.echo:
            return ""
        text = self.texts[position]
        return self.tokenizer.decode(generation.prompt_ids) if text is None else text

    def logprobs(self, offsets: Offsets, entries: list[TokenLogprobs]) -> CompletionLogprobs:
        """Parallel lists for the next `entries` of a choice."""
        found = CompletionLogprobs([], [], [] if self.body.logprobs else None, [])
        for entry in entries:
            offset, added = offsets.push(entry.token)
            text = self.names.token_text(entry.token)
            if self.names is self.tokenizer and not offset and added and text.endswith(added):
                text = added  # the space that begins a text isn't shown
            found.tokens.append(text)
            found.token_logprobs.append(finite(entry.logprob))
            found.text_offset.append(offset)
            if found.top_logprobs is not None:
                found.top_logprobs.append(self._top(entry))
        return found

    def _offsets(self, index: int, generation: Generation) -> Offsets:
        if index not in self.offsets:
            sampling, before = self.prompts[0].sampling, [] if self.body.echo else generation.prompt_ids
            skips, spaces = sampling.skip_special_tokens, sampling.spaces_between_special_tokens
            self.offsets[index] = Offsets(Detokenizer(self.tokenizer, before, skips, spaces))
        return self.offsets[index]

    def _top(self, entry: TokenLogprobs) -> dict[str, float] | None:
        if entry.logprob is None:
            return None
        pairs = [*entry.top[: self.body.logprobs], (entry.logprob, entry.token)]
        return {self.names.token_text(token): finite(logprob) or 0.0 for logprob, token in pairs}

    def whole(self, position: int, generation: Generation) -> CompletionChoice:
        """A finished choice."""
        text = self.echo(position, generation) + generation.text
        entries = (generation.prompt_logprobs if self.body.echo else []) + generation.logprobs
        choice = self._choice(position, generation, text, entries, generation.output_ids, is_first=True)
        if self.body.prompt_logprobs is not None:
            choice.prompt_logprobs = prompt_logprobs(generation.prompt_logprobs, self.body.prompt_logprobs, self.names)
        return choice

    def part(self, news: News) -> CompletionChoice:
        """What is new of a choice."""
        echo = self.echo(news.position, news.generation) if news.is_first else ""
        text = echo + news.text
        return self._choice(news.position, news.generation, text, news.logprobs, news.token_ids, news.is_first)

    def _choice(
        self,
        position: int,
        generation: Generation,
        text: str,
        entries: list[TokenLogprobs],
        ids: list[int],
        is_first: bool,
    ) -> CompletionChoice:
        index = self.index(position, generation)
        wanted = self.body.logprobs is not None
        logprobs = self.logprobs(self._offsets(index, generation), entries) if wanted else None
        choice = CompletionChoice(index, text, logprobs, generation.finish, generation.matched)
        if self.body.return_token_ids:
            choice.token_ids = list(ids)
            choice.prompt_token_ids = generation.prompt_ids if is_first else UNSET
        return choice

    def completion(self, finished: list[list[Generation]]) -> Completion:
        """The whole answer: of each prompt's samples those that are asked for."""
        for position, samples in enumerate(finished):
            chosen = best(samples, self.samples)
            self.head.choices.extend(self.whole(position, generation) for generation in chosen)
        self.head.usage = usage_of(generation for samples in finished for generation in samples)
        return self.head

    def block(self, choices: list[CompletionChoice], usage: Usage | None) -> bytes:
        """One chunk as an event."""
        head = self.head
        chunk = Completion(head.id, head.created, head.model, choices)
        if usage is not None:
            chunk.usage = usage
        return event(ENCODER.encode(chunk))


def _shared_id(prompts: list[Prompt]) -> str:
    rid = prompts[0].rid or ""
    return rid if len(prompts) == 1 else rid.removesuffix("_0")


async def _events(replies: Replies) -> AsyncGenerator[bytes, None]:
    options = replies.body.stream_options or StreamOptions()
    continuous = bool(options.continuous_usage_stats)
    tracker = Tracker(replies.body.logprobs is not None, continuous, bool(replies.body.return_token_ids))
    async with aclosing(replies.service.run(replies.prompts)) as batches:
        async for changes in batches:
            parts = [replies.part(news) for news in tracker.news(changes)]
            usage = tracker.usage() if continuous and parts else None
            if parts:
                yield b"".join(replies.block([part], usage) for part in parts)
    if options.include_usage:
        yield replies.block([], tracker.usage())


async def completions(request: Request) -> Response:
    """Continue a prompt, OpenAI's way."""
    service: Service = request.app.state.service
    body = await read(request, DECODER, service.options.max_body_bytes)
    request.state.field_names = field_names(body, "prompt", "logprobs")
    service.check_model(body.model)
    prompts = await service.off_loop(request.state.body_bytes // BYTES_A_CHAR, _prompts, service, body)
    replies = Replies(service, body, prompts)
    if body.stream:
        return EventStream(_events(replies))
    finished = await or_disconnect(request, service.complete(replies.prompts))
    return await service.reply(
        (generation for samples in finished for generation in samples),
        lambda: json_response(replies.completion(finished)),
    )
