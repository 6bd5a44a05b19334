"""A frontend without an engine: bytes are tokens, and the answer repeats the prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from sgcore.config import Choices
from sgcore.engine.generation import Changes, Generation
from sgcore.engine.intake import truncated
from sgcore.engine.limits import context_exceeded
from sgcore.engine.messages import Stats, TokenLogprobs
from sgcore.engine.prompt import Prompt
from sgcore.errors import RequestError
from sgcore.plugins import drivers
from sgcore.plugins.installed import Installed
from sgcore.plugins.plan import Decision, Driver, Plan
from sgcore.tokenizer.turns import ChatTurns

BOS = 256
VOCABULARY = 257


class ByteTokenizer:
    """Token `n` is byte `n`; 256 begins a text."""

    vocab_size = VOCABULARY
    eos_ids = frozenset({0})
    response_template: dict[str, Any] | None = None

    def special_texts(self) -> frozenset[str]:
        return frozenset({"<s>"})

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [BOS] * add_special_tokens + list(text.encode("utf-8", "replace"))

    def encode_first(self, text: str) -> list[int]:
        return self.encode(text)

    def encode_more(self, text: str) -> list[int]:
        return self.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True, spaces: bool = True) -> str:
        plain = bytes(token for token in ids if token < BOS).decode("utf-8", "replace")
        return plain if skip_special_tokens or BOS not in ids else "<s>" + plain

    def token_text(self, token: int) -> str:
        return self.decode([token], skip_special_tokens=False)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < BOS else b"<s>"

    def tokens_to(self, place: int, ids: Sequence[int], skip_special_tokens: bool = True, spaces: bool = True) -> int:
        return next(count for count in range(len(ids) + 1) if len(self.decode(ids[:count])) >= place)

    def __init__(self) -> None:
        self.rendered: list[dict[str, Any]] = []

    def apply_chat_template(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        self.rendered.append({"messages": messages, **kwargs})
        if messages[0]["role"] == "refused":
            raise RequestError("the chat template refused the messages: bad role", param="messages")
        lines = [f"{message['role']}: {message['content']}" for message in messages]
        if kwargs.get("add_generation_prompt"):
            lines.append("assistant: ")
        return "\n".join(lines) + kwargs.get("suffix", "")


def make_plan(**options: Any) -> Plan:
    """A plan that names drivers nobody loads."""
    choices = Choices.of(**({"model_path": "/models/fake", "served_model_name": "fake"} | options))
    driver = Driver("any", "any", "any:any", "any", "0")
    parsers = {name: _parser(getattr(choices.model, name)) for name in ("tool_call_parser", "reasoning_parser")}
    return Plan(
        choices=choices,
        model_path="/models/fake",
        hf_config={"model_type": "fake", "architectures": ["FakeForCausalLM"], "vocab_size": VOCABULARY},
        model=driver,
        platform=driver,
        attention=driver,
        source=driver,
        quantization=None,
        dtype="float32",
        context_tokens=4096,
        options=choices.public(),
        decisions=(Decision("dtype", "float32", "fake"),),
        grammar=driver,
        **parsers,
    )


def _parser(name: str) -> Driver | None:
    return None if name in ("auto", "none") else drivers.find("parser", name, Installed.read())


class FakeFrontend:
    """Answers with the prompt's own bytes, again and again, shifted by one for each further sample."""

    def __init__(self, step_s: float = 0.0, limit: int = 1000, **options: Any) -> None:
        self.plan = make_plan(**options)
        self.tokenizer: ByteTokenizer | None = ByteTokenizer()
        self.context_tokens = 4096
        self.max_total_tokens = 65536
        self.vocab_size = VOCABULARY
        self.stats = Stats(running=1, queued=2, used_tokens=100, total_tokens=1000, generated_tokens_total=7)
        self.failure: str | None = None
        self.is_device_lost = False
        self.defaults: dict[str, Any] = {}
        self.report = [("weights", "1 MiB")]
        self.step_s = step_s
        self.limit = limit
        self.running: dict[str, Prompt] = {}
        self.prompts: list[Prompt] = []
        self.aborted: list[str] = []
        self.is_alive_now = True
        self.pinned: dict[str, list[int]] = {}
        self.chat_turns = ChatTurns(False, "it is a fake")

    def pin(self, group: str, tokens: list[int], namespace: str = "") -> None:
        self.pinned[namespace + group] = tokens

    def unpin(self, group: str, namespace: str = "") -> None:
        self.pinned.pop(namespace + group, None)

    def is_alive(self) -> bool:
        return self.is_alive_now

    async def flush_cache(self) -> bool:
        return not self.running

    def abort(self, rid_prefix: str = "", everything: bool = False) -> None:
        for rid in [rid for rid in self.running if everything or rid.startswith(rid_prefix)]:
            self.aborted.append(rid)
            del self.running[rid]

    def wait_ready(self) -> None:
        """Always ready."""

    def close(self) -> None:
        """Nothing to end."""

    async def astream(self, *prompts: Prompt) -> AsyncIterator[Changes]:
        sources = [self._samples(prompt) for prompt in prompts]
        try:
            while True:
                steps = (anext(source, None) for source in sources)
                found = await asyncio.gather(*steps, return_exceptions=True)
                for each in found:
                    if isinstance(each, BaseException):
                        raise each
                if not any(found):
                    return
                yield [(place, each) for place, each in enumerate(found) if isinstance(each, Generation)]
        finally:
            for source in sources:
                await source.aclose()

    async def _samples(self, prompt: Prompt) -> AsyncGenerator[Generation, None]:
        ids = self._ids(prompt)
        rid = prompt.rid or f"fake-{len(self.prompts)}"
        self.prompts.append(prompt)
        if len(self.running) >= self.limit:
            raise RequestError("the queue is full", status=429, code="queue_full")
        self.running[rid] = prompt
        samples = [Generation(rid, index, ids, created=time.monotonic()) for index in range(prompt.sampling.n)]
        try:
            for generation in samples:
                generation.prompt_logprobs = self._prompt_logprobs(prompt, ids)
                generation.cached_tokens = min(1, len(ids))
            while any(not generation.is_finished for generation in samples):
                await asyncio.sleep(self.step_s)
                for generation in samples:
                    if not generation.is_finished:
                        self._step(prompt, rid, generation)
                        yield generation
        finally:
            if self.running.pop(rid, None) is not None and any(not s.is_finished for s in samples):
                self.aborted.append(rid)

    def _ids(self, prompt: Prompt) -> list[int]:
        if self.failure is not None:
            raise RequestError(f"the engine core died: {self.failure}", 503)
        ids = (
            prompt.input_ids if prompt.text is None else ByteTokenizer().encode(prompt.text, prompt.add_special_tokens)
        )
        ids = truncated(prompt, ids or [], self.context_tokens)
        if not ids:
            raise RequestError("the prompt is empty", param="prompt")
        if max(ids) >= VOCABULARY:
            raise RequestError("a token id is outside the vocabulary", param="input_ids")
        if len(ids) >= self.context_tokens:
            raise context_exceeded(len(ids), self.context_tokens, self.max_total_tokens)
        return ids

    def _step(self, prompt: Prompt, rid: str, generation: Generation) -> None:
        position = len(generation.output_ids)
        limit = prompt.sampling.max_new_tokens
        limit = self.context_tokens - len(generation.prompt_ids) if limit is None else limit
        if self.failure is not None or rid not in self.running:
            self._abort(generation)
            return
        token = self._token(generation, position)
        if token is None:
            self._finish(generation, "stop")
        elif position < limit:
            generation.output_ids.append(token)
            generation.first_token = generation.first_token or time.monotonic()
            if prompt.top_logprobs >= 0:
                top = [(-0.5 - n, (token + n) % 256) for n in range(prompt.top_logprobs)]
                generation.logprobs.append(TokenLogprobs(token, -0.5, top))
        self._text(prompt, generation)
        if not generation.is_finished and len(generation.output_ids) >= limit:
            self._finish(generation, "length")

    def _token(self, generation: Generation, position: int) -> int | None:
        source = [token for token in generation.prompt_ids if token < BOS] or [65]
        return source[(position + generation.index) % len(source)] % 256

    def _abort(self, generation: Generation) -> None:
        generation.message = self.failure or "aborted by request"
        generation.status = 503 if self.failure else 200
        self._finish(generation, "abort")

    def _text(self, prompt: Prompt, generation: Generation) -> None:
        text = bytes(generation.output_ids).decode("utf-8", "ignore")
        for stop in prompt.sampling.stop:
            if stop in text:
                generation.matched = stop
                text = text[: text.index(stop)]
                self._finish(generation, "stop")
        held = max((len(stop) - 1 for stop in prompt.sampling.stop), default=0)
        is_last = generation.is_finished or len(generation.output_ids) == prompt.sampling.max_new_tokens
        generation.text = text if is_last else text[: max(len(generation.text), len(text) - held)]

    def _finish(self, generation: Generation, reason: str) -> None:
        generation.finish = reason
        generation.finished = time.monotonic()

    def _prompt_logprobs(self, prompt: Prompt, ids: list[int]) -> list[TokenLogprobs]:
        if prompt.logprob_start < 0:
            return []
        entries = [TokenLogprobs(token, -1.0 if place else None) for place, token in enumerate(ids)]
        return entries[prompt.logprob_start :]


class ScriptedFrontend(FakeFrontend):
    """Every sample says `script`, a byte a step, and ends by itself."""

    script = ""

    def _token(self, generation: Generation, position: int) -> int | None:
        text = self.script.encode()
        return text[position] if position < len(text) else None
