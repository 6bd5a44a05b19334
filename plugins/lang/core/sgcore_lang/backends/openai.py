"""Any server that speaks OpenAI's protocol: chat, or completions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from sgcore.choices import METHODS, UNCONDITIONAL
from sgcore.lang import Generate, Generated, Score
from sgcore_lang.backend import PLAIN_TURNS, Call, Progress, Reply, Turns, asks_model, refuse_media
from sgcore_lang.backends.server import RuntimeEndpoint
from sgcore_lang.errors import BackendError, NotSupported

SAME_NAMES = ("n", "stop", "temperature", "top_p", "frequency_penalty", "presence_penalty")
NEUTRAL: Mapping[str, Any] = {"top_k": -1, "min_p": 0.0, "ignore_eos": False}
"""Parameters that the protocol doesn't have, and the values at which they do nothing."""
COMPLETION_MODELS = ("babbage-002", "davinci-002", "gpt-3.5-turbo-instruct")


class OpenAI(RuntimeEndpoint):
    """A model behind OpenAI's protocol. What the protocol can't say raises NotSupported, which names it.

    `is_chat_model` None: all but OpenAI's own completion models are. The key is `api_key`, or OPENAI_API_KEY.
    """

    takes_programs = False

    def __init__(
        self,
        model_name: str,
        is_chat_model: bool | None = None,
        chat_template: Turns | None = None,
        base_url: str = "https://api.openai.com/v1",
        api_key: str | None = None,
    ) -> None:
        super().__init__(base_url, api_key or os.environ.get("OPENAI_API_KEY"))
        self.model = model_name
        self.is_chat_model = model_name not in COMPLETION_MODELS if is_chat_model is None else is_chat_model
        self._template = chat_template or PLAIN_TURNS

    async def turns(self) -> Turns:
        return self._template

    async def run(self, call: Call, progress: Progress | None = None) -> Reply:
        refuse_media(call, "not sent to OpenAI-compatible servers yet")
        last = call.pieces[-1]
        assert asks_model(last)
        if isinstance(last, Score):
            return Reply([await self._choose(call, last)])
        assert isinstance(last, Generate)
        path, body = self._chat(call) if self.is_chat_model else ("/completions", {"prompt": _text(call)})
        body |= {"model": self.model, **_parameters(last)}
        if progress is None:
            answer = await self._post(path, body)
            return _reply([_text_of(choice) for choice in answer["choices"]], answer)
        texts: dict[int, str] = {}
        async for event in self._events(path, {**body, "stream": True, "stream_options": {"include_usage": True}}):
            answer = event
            for choice in event["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + _text_of(choice, "delta")
            progress(len(call.pieces) - 1, texts.get(0, ""), {"id": event.get("id")})
        return _reply([texts[index] for index in sorted(texts)], answer)

    def _chat(self, call: Call) -> tuple[str, dict[str, Any]]:
        if call.role != "assistant":
            raise NotSupported(
                "gen outside of an assistant's turn: a chat server only answers; use s.assistant(gen(...))"
            )
        if call.messages[-1]["content"]:
            raise NotSupported("gen behind other text of the assistant's turn: a chat server begins its turn itself")
        return "/chat/completions", {"messages": list(call.messages[:-1])}

    async def _choose(self, call: Call, score: Score) -> Generated:
        if self.is_chat_model:
            raise NotSupported(
                "select: a chat server gives no log-probabilities of given texts; use a completions model"
            )
        prompt = _text(call)
        conditional = await self._logprobs([prompt + choice for choice in score.choices], len(prompt))
        unconditional: list[list[float]] = []
        if score.method in UNCONDITIONAL:
            unconditional = await self._logprobs(list(score.choices), 0)
        decision = METHODS[score.method](conditional, unconditional)
        text = score.choices[decision.place]
        meta = {"normalized_prompt_logprobs": [sum(row) / len(row) for row in conditional], **decision.details}
        return Generated(text, (text,), {**meta, "input_token_logprobs": conditional})

    async def _logprobs(self, texts: list[str], start: int) -> list[list[float]]:
        """For each text the log-probabilities of the tokens that reach beyond `start` characters."""
        body = {"model": self.model, "prompt": texts, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        try:
            answer = await self._post("/completions", body)
        except BackendError as error:
            raise NotSupported(f"select needs completions with echo and logprobs: {error}", error.status) from error
        rows = [choice["logprobs"] for choice in sorted(answer["choices"], key=lambda choice: choice["index"])]
        return [_behind(row, start) for row in rows]


def _behind(row: Mapping[str, Any], start: int) -> list[float]:
    ends = [offset + len(token) for offset, token in zip(row["text_offset"], row["tokens"], strict=True)]
    return [logprob or 0.0 for end, logprob in zip(ends, row["token_logprobs"], strict=True) if end > start]


def _text(call: Call) -> str:
    return call.text + "".join(piece for piece in call.pieces if isinstance(piece, str))


def _text_of(choice: Mapping[str, Any], message: str = "message") -> str:
    return (choice[message].get("content") if message in choice else choice.get("text")) or ""


def _reply(texts: Sequence[str], answer: Mapping[str, Any]) -> Reply:
    usage = answer.get("usage") or {}
    counts = {name: usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens")}
    counts["cached_tokens"] = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    meta = {"id": answer.get("id"), **counts}
    return Reply([Generated(texts[0], tuple(texts), meta)], counts=counts)


def _parameters(request: Generate) -> dict[str, Any]:
    """Sampling in the protocol's words. Raises NotSupported for what it has none for."""
    params = dict(request.params)
    body = {name: params.pop(name) for name in SAME_NAMES if params.get(name) is not None}
    body["max_tokens"] = params.pop("max_new_tokens", None)
    if schema := params.pop("json_schema", None):
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": json.loads(schema), "strict": True},
        }
    for name, value in {**params, **request.options}.items():
        if value not in (None, [], NEUTRAL.get(name)):
            raise NotSupported(f"{name}: OpenAI's protocol has no such parameter; use a sgcore server")
    return {name: value for name, value in body.items() if value is not None}
