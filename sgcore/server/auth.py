"""What stands before every route: the key, the request's id, and the last word on unexpected errors."""

from __future__ import annotations

import hmac
import logging
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgcore.errors import RequestError
from sgcore.server.activity import CLIENT_LEFT, CURRENT, Work, log_request
from sgcore.server.errors import error_response
from sgcore.server.service import Service

log = logging.getLogger(__name__)
OPEN_PATHS = frozenset({"/health", "/ready", "/ping"})
"""Probes: they need no key and don't count as work."""


class KeyGuard:
    """Asks for `Authorization: Bearer KEY` over HTTP and websockets alike."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self.app = app
        self.expected = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._may_pass(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "a valid API key is needed"})
        else:
            message = "a valid API key is needed: Authorization: Bearer KEY"
            error = RequestError(message, status=401, code="invalid_api_key")
            await error_response(error, {"www-authenticate": "Bearer"})(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if self.expected is None or scope["type"] == "lifespan":
            return True
        if scope["type"] == "http" and scope["path"] in OPEN_PATHS:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        return hmac.compare_digest(scheme.capitalize() + b" " + key.strip(), self.expected)


class Envelope:
    """Counts work in flight, echoes `x-request-id`, and turns an unexpected error into a 500 that names it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_work = scope["path"] not in OPEN_PATHS
        self.service.in_flight += is_work
        try:
            await self._answer(scope, receive, send)
        finally:
            self.service.in_flight -= is_work

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(Headers(scope=scope).get("x-request-id", ""))
        work = Work(request_id)
        CURRENT.set(work)

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                work.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, labelled)
        except ClientDisconnect:
            work.status = CLIENT_LEFT
        except Exception:
            log.exception("request %s failed", request_id)
            if work.status:
                raise
            error = RequestError(f"internal error; the log has it under request id {request_id}", status=500)
            await error_response(error)(scope, receive, labelled)
        finally:
            if self.service.options.log_requests == "on":
                log_request(scope, work)


def _request_id(given: str) -> str:
    if 0 < len(given) <= 128 and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex
