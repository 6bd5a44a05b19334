"""Server-sent events without ceremony, and what happens when the client hangs up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sgcore.errors import RequestError
from sgcore.server.activity import note_failure
from sgcore.server.errors import error_body

log = logging.getLogger(__name__)
T = TypeVar("T")
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
DONE = b"data: [DONE]\n\n"


def event(payload: bytes) -> bytes:
    """One event; JSON has no raw line breaks, so one `data:` line is enough."""
    return b"data: " + payload + b"\n\n"


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def first_of(work: asyncio.Task[T], receive: Receive) -> T:
    """The work's result; raises `ClientDisconnect`, with the work cancelled and ended, if the client goes first."""
    watcher = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((work, watcher), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        watcher.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait((work,))


async def or_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` until it ends or the client has gone."""
    return await first_of(asyncio.ensure_future(work), request.receive)


class EventStream(Response):
    """Blocks of events as they come; ends the source when the client goes.

    The status line waits for the first block: a source that raises before it is answered with the error's own
    status. A later error is an event, and `data: [DONE]` follows success alone.
    """

    media_type = "text/event-stream"

    def __init__(self, blocks: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self.blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await first_of(asyncio.ensure_future(self._pump(send)), receive)

    async def _pump(self, send: Send) -> None:
        started = False
        ending = DONE
        try:
            async with aclosing(self.blocks):
                async for block in self.blocks:
                    if not started:
                        await self._start(send)
                        started = True
                    await send({"type": "http.response.body", "body": block, "more_body": True})
        except Exception as error:
            if not started:
                raise
            told = _as_request_error(error)
            note_failure(told.status)
            ending = event(error_body(told))
        if not started:
            await self._start(send)
        await send({"type": "http.response.body", "body": ending, "more_body": False})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


def _as_request_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    log.error("a stream failed", exc_info=error)
    return RequestError("internal error", status=500)
