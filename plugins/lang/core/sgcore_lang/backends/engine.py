"""An engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from sgcore.errors import RequestError
from sgcore_lang.backend import PLAIN_TURNS, Backend, Call, Message, Progress, Reply, Turns
from sgcore_lang.backends.wire import body_of, reply_of, turns_of
from sgcore_lang.errors import BackendError

MOST_AT_ONCE = 512
"""Requests; the others wait here instead of in the engine's queue, which is bounded."""


class InProcess(Backend):
    """A `sgcore.Engine`."""

    takes_programs = True

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._turns: Turns | None = None
        self._free = asyncio.Semaphore(MOST_AT_ONCE)

    async def turns(self) -> Turns:
        if self._turns is None:
            told = await asyncio.to_thread(lambda: msgspec.to_builtins(self.engine.chat_turns))
            self._turns = turns_of(told) or PLAIN_TURNS
        return self._turns

    async def run(self, call: Call, progress: Progress | None = None) -> Reply:
        body = body_of(call)
        body["prompt"] = body.pop("text", None)
        last: dict[str, Any] = {}
        try:
            async with self._free, aclosing(await self.engine.async_generate(**body, stream=True)) as events:
                async for event in events:
                    last = event
                    if progress is not None and "piece" in event:
                        progress(event["piece"], event["text"], event["meta_info"])
        except RequestError as error:
            raise BackendError(str(error), error.status) from error
        return reply_of(call, last)

    async def render(self, messages: Sequence[Message], continues: bool) -> Sequence[int]:
        tokenizer = self.engine.tokenizer
        arguments = {"add_generation_prompt": not continues, "continue_final_message": continues}
        try:
            text = await asyncio.to_thread(tokenizer.apply_chat_template, list(messages), **arguments)
        except RequestError as error:
            raise BackendError(str(error), error.status) from error
        found: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return found

    async def release(self, group: str) -> None:
        self.engine.release_group(group)

    async def flush_cache(self) -> None:
        if not await asyncio.to_thread(self.engine.flush_cache):
            raise BackendError("the cache was not flushed: requests are running or waiting")

    async def server_info(self) -> Mapping[str, Any]:
        info: dict[str, Any] = self.engine.get_server_info()
        return info
