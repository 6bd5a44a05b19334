"""A running sgcore server."""

from __future__ import annotations

import asyncio
import json
import os
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2

from sgcore_lang import loop
from sgcore_lang.backend import PLAIN_TURNS, Backend, Call, Message, Progress, Reply, Turns
from sgcore_lang.backends.wire import body_of, reply_of, turns_of
from sgcore_lang.errors import BackendError

CONNECT_S = 10.0
MOST_AT_ONCE = 512
"""Requests; the others wait here instead of in the server's queue, which is bounded."""


class RuntimeEndpoint(Backend):
    """The server at `base_url`. Its own chat template counts: `chat_template_name`, SGLang's, must be None."""

    takes_programs = True

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        verify: bool | str | None = None,
        chat_template_name: str | None = None,
    ) -> None:
        if chat_template_name is not None:
            raise ValueError("the server's own chat template is used: give it to `sgcore serve --chat-template`")
        self.base_url = base_url.rstrip("/")
        self._key = api_key or os.environ.get("SGCORE_API_KEY")
        self._verify = True if verify is None else verify
        self._client: httpx2.AsyncClient | None = None
        self._turns: asyncio.Task[Turns] | None = None

    async def turns(self) -> Turns:
        if self._turns is None or (self._turns.done() and self._turns.exception() is not None):
            self._turns = asyncio.create_task(self._ask_turns())
        return await asyncio.shield(self._turns)

    async def _ask_turns(self) -> Turns:
        info = await self._get("/model_info")
        return turns_of(info.get("chat_turns")) or PLAIN_TURNS

    async def run(self, call: Call, progress: Progress | None = None) -> Reply:
        body = body_of(call)
        if progress is None:
            return reply_of(call, await self._post("/generate", body))
        async for event in self._events("/generate", {**body, "stream": True}):
            if "input_ids" in event:
                return reply_of(call, event)
            if "text" in event:
                progress(event["piece"], event["text"], event["meta_info"])
        raise BackendError(f"{self.base_url} ended a stream in the middle")

    async def render(self, messages: Sequence[Message], continues: bool) -> Sequence[int]:
        body = {"messages": list(messages), "add_generation_prompt": not continues, "continue_final_message": continues}
        found: list[int] = (await self._post("/tokenize", body))["tokens"]
        return found

    async def release(self, group: str) -> None:
        await self._post("/release_group", {"id": group})

    async def flush_cache(self) -> None:
        async with self._sent("POST", "/flush_cache?timeout=60", None) as response:
            await response.aread()

    async def server_info(self) -> Mapping[str, Any]:
        info: dict[str, Any] = await self._get("/server_info")
        return info

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _get(self, path: str) -> Any:
        async with self._sent("GET", path, None) as response:
            return json.loads(await response.aread())

    async def _post(self, path: str, body: Any) -> Any:
        async with self._sent("POST", path, body) as response:
            return json.loads(await response.aread())

    async def _events(self, path: str, body: Any) -> AsyncIterator[dict[str, Any]]:
        async with self._sent("POST", path, body) as response:
            async for sent in httpx2.EventSource(response, max_event_size=None):
                if sent.data != "[DONE]":
                    event = json.loads(sent.data)
                    if "error" in event:
                        raise BackendError(event["error"]["message"])
                    yield event

    @asynccontextmanager
    async def _sent(self, method: str, path: str, body: Any) -> AsyncIterator[httpx2.Response]:
        """A response that is a success. Raises BackendError for any other, and for none."""
        try:
            async with self._http().stream(method, path, json=body) as response:
                if response.status_code >= 400:
                    raise BackendError(_reason(response.status_code, await response.aread()), response.status_code)
                yield response
        except httpx2.TransportError as error:
            raise BackendError(f"no answer from {self.base_url}: {error or type(error).__name__}") from error

    def _http(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                base_url=self.base_url,
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                verify=self._verify,
                timeout=httpx2.Timeout(None, connect=CONNECT_S),
                limits=httpx2.Limits(max_connections=MOST_AT_ONCE, max_keepalive_connections=MOST_AT_ONCE),
            )
            weakref.finalize(self, _close_later, self._client)
        return self._client


def _close_later(client: httpx2.AsyncClient) -> None:
    """Nobody has the endpoint any more: give its connections back, if its loop still runs."""
    with suppress(RuntimeError):
        loop.call(lambda: loop.keep(client.aclose()))


def _reason(status: int, body: bytes) -> str:
    try:
        return f"the server says {status}: {json.loads(body)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"the server says {status}: {body[:200].decode(errors='replace')}"
