"""One request to a running server, and when its tokens came."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import msgspec

PATHS = {"sgcore": "/generate", "openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}
"""Backend -> its route."""


@dataclass(frozen=True)
class Work:
    """One request: a prompt as text or token ids, its length in tokens (0: not known) and the most to generate."""

    prompt: str | list[int]
    prompt_tokens: int
    max_tokens: int


@dataclass
class Reply:
    """What became of one request. Times are `time.perf_counter()` seconds."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    started: float = 0.0
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """When something new came, and how many tokens it was (OpenAI's routes don't say: 1)."""
    finished: float = 0.0
    """When the answer ended; a last token without text comes after the last arrival."""
    error: str = ""

    @property
    def ttft_s(self) -> float:
        """Seconds to the first token."""
        return self.arrivals[0][0] - self.started

    @property
    def latency_s(self) -> float:
        """Seconds to the last token."""
        return max(self.finished, self.arrivals[-1][0]) - self.started

    @property
    def tpot_s(self) -> float:
        """Seconds for each token after the first; needs two."""
        return (self.latency_s - self.ttft_s) / (self.output_tokens - 1)

    def gaps_s(self) -> list[float]:
        """Seconds between tokens; those that arrived together share the wait."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [(now - before) / count for (before, _), (now, count) in pairs for _ in range(count)]


class Client:
    """Sends prompts to one server over one of its routes. `http` has the server's address as its base."""

    def __init__(self, http: httpx2.AsyncClient, backend: str, model: str = "", ignores_eos: bool = True) -> None:
        self.http, self.backend, self.model, self.ignores_eos = http, backend, model, ignores_eos

    async def send(self, work: Work) -> Reply:
        """One request, streamed greedily to its end. Never raises: what went wrong is the reply's `error`."""
        reply = Reply(work.prompt_tokens, started=time.perf_counter())
        try:
            async with self.http.stream("POST", PATHS[self.backend], json=self.body(work)) as response:
                if response.status_code != 200:
                    text = (await response.aread()).decode(errors="replace")
                    reply.error = f"status {response.status_code}: {text[:300]}"
                    return reply
                async for event in _events(response):
                    self._take(reply, event)
        except (httpx2.HTTPError, OSError, ValueError, LookupError) as error:
            reply.error = f"{type(error).__name__}: {error}"
        if not reply.arrivals and not reply.error:
            reply.error = "the answer was empty"
        return reply

    def body(self, work: Work) -> dict[str, Any]:
        """The request in the backend's words."""
        if self.backend == "sgcore":
            sampling = {"temperature": 0.0, "max_new_tokens": work.max_tokens, "ignore_eos": self.ignores_eos}
            prompt = {"text" if isinstance(work.prompt, str) else "input_ids": work.prompt}
            return {**prompt, "sampling_params": sampling, "stream": True}
        common = {
            "model": self.model,
            "temperature": 0.0,
            "max_tokens": work.max_tokens,
            "ignore_eos": self.ignores_eos,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.backend == "openai":
            return {"prompt": work.prompt, **common}
        return {"messages": [{"role": "user", "content": work.prompt}], **common}

    def _take(self, reply: Reply, event: dict[str, Any]) -> None:
        now = time.perf_counter()
        if "error" in event:
            reply.error = str(event["error"])
        elif self.backend == "sgcore":
            info = event["meta_info"]
            new = info["completion_tokens"] - reply.output_tokens
            reply.prompt_tokens, reply.output_tokens = info["prompt_tokens"], info["completion_tokens"]
            reply.text = event.get("text", "")
            reply.arrivals += [(now, new)] * (new > 0)
        else:
            self._take_choices(reply, event, now)

    def _take_choices(self, reply: Reply, event: dict[str, Any], now: float) -> None:
        for choice in event.get("choices", ()):
            text = choice["text"] if self.backend == "openai" else choice["delta"].get("content")
            if text or (choice.get("finish_reason") and not reply.arrivals):
                reply.text += text or ""
                reply.output_tokens += 1
                reply.arrivals.append((now, 1))
            reply.finished = now
        if usage := event.get("usage"):
            reply.prompt_tokens, reply.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]


async def _events(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event, as soon as it is whole."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield msgspec.json.decode(data)


async def run_load(
    client: Client, work: Sequence[Work], rate: float, concurrency: int | None, seed: int
) -> list[Reply]:
    """Send everything: `rate` requests a second (Poisson; inf: at once), at most `concurrency` under way."""
    draw = random.Random(seed)
    places = asyncio.Semaphore(concurrency or len(work))

    async def one(request: Work) -> Reply:
        async with places:
            return await client.send(request)

    tasks = []
    for request in work:
        tasks.append(asyncio.create_task(one(request)))
        if rate != float("inf"):
            await asyncio.sleep(draw.expovariate(rate))
    return await asyncio.gather(*tasks)
