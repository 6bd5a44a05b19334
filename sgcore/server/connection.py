"""uvicorn's connection with bounds: how many there are, how much they say and for how long; refusals in one shape."""

from __future__ import annotations

import re
import resource
from asyncio import TimerHandle
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sgcore.config import ServerOptions
from sgcore.errors import RequestError
from sgcore.server.errors import error_response

MAX_TARGET_BYTES = 8192
"""Of path and query, as other servers take them."""
MIN_BYTES_PER_S = 16384
"""A body that arrives faster than this may take longer than `--read-timeout`."""
FRAMING = 8
"""Bytes around each byte of a body that comes in the smallest chunks, and some."""
LINGER_S, LINGER_BYTES = 2.0, 1 << 20
"""How long a refused client may go on sending: to close at once would take the refusal from it."""
SPARE_FILES = 256
"""Files that a server opens beside connections."""
HOST = re.compile(rb"[\w.~:\[\]%!$&'()*+,;=-]*", re.ASCII)


def connection_limit(options: ServerOptions) -> int:
    """`--max-connections`, or as many as the system lets this process open; its soft limit is raised to that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = options.max_connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return options.max_connections if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft) - SPARE_FILES)


def protocol(options: ServerOptions) -> Any:
    """What `uvicorn.Config(http=...)` takes."""
    return partial(Connection, options=options, limit=connection_limit(options))


class Connection(HttpToolsProtocol):
    """One client's connection. A request is arriving until its last byte is there."""

    def __init__(self, *, options: ServerOptions, limit: int, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.options, self.limit = options, limit
        self._refusal: RequestError | None = None
        self._is_refused = self._has_spoken = self._has_ended = False
        self._is_in_head = self._is_arriving = True
        self._timer: TimerHandle | None = None
        self._began = self.loop.time()
        self._body_bytes = self._other_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limit:
            self._answer(RequestError(f"{self.limit} connections are open, and no more are taken", status=503))
            transport.close()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._other_bytes += len(data)
            if self._other_bytes > LINGER_BYTES:
                self.transport.close()
            return
        self._unset_keepalive_if_required()
        self._has_spoken, self._has_ended = True, False
        body_before = self._body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError as error:
            said = "" if isinstance(error, httptools.HttpParserCallbackError) else f": {error}"
            self._refuse(self._refusal or RequestError(f"malformed HTTP request{said}"))
        else:
            if not self._has_ended:
                self._continue(len(data) - (self._body_bytes - body_before))
        if self._is_arriving:
            self._watch()
        else:
            self._unwatch()

    def _continue(self, other_bytes: int) -> None:
        """The bytes that came have ended no request."""
        if not self._is_arriving:  # they were line breaks before one
            self._is_arriving, self._began = True, self.loop.time()
        self._other_bytes += other_bytes
        self._check_sizes()

    # -- the parser's calls --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = self._is_arriving = True
        self._began = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # trailers come too late for everybody who has looked at headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._refusal = self._head_refusal()
        if self._refusal is not None:
            raise self._refusal  # ends the parser's work; `data_received` answers
        super().on_headers_complete()
        self._is_in_head = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._has_ended, self._is_arriving, self._is_in_head = True, False, True
        self._body_bytes = self._other_bytes = 0

    # -- bounds --------------------------------------------------------------------------------------------------

    def _head_refusal(self) -> RequestError | None:
        size = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.options.max_header_bytes:
            return self._too_large()
        if len(self.url) > MAX_TARGET_BYTES:
            return RequestError(f"the path and query are longer than {MAX_TARGET_BYTES} bytes", status=414)
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            return RequestError(f"a request has one Host header, and this one has {len(hosts)}")
        if hosts and HOST.fullmatch(hosts[0]) is None:
            return RequestError("the Host header is no host name")
        return None

    def _too_large(self) -> RequestError:
        limit = self.options.max_header_bytes
        return RequestError(f"the headers are larger than {limit} bytes (--max-header-bytes)", status=431)

    def _check_sizes(self) -> None:
        """Look at what the parser doesn't tell: headers in the making, and what stands between a body's bytes."""
        allowed = self.options.max_header_bytes * (1 if self._is_in_head else 2) + FRAMING * self._body_bytes
        if self._other_bytes > allowed:
            self._refuse(self._too_large())
        elif self._body_bytes > self.options.max_body_bytes and self.cycle.response_complete:
            self.transport.close()  # nobody reads it: the answer was sent long ago

    def _watch(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.options.read_timeout, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Refuse a request that takes too long to arrive; one that nobody reads is not late."""
        self._timer = None
        if self.transport.is_closing():
            return
        left = self._began + self.options.read_timeout + self._body_bytes / MIN_BYTES_PER_S - self.loop.time()
        if left <= 0 and self.flow.read_paused:
            left = self.options.read_timeout
        if left > 0:
            self._timer = self.loop.call_later(left, self._look)
        elif self._has_spoken:
            seconds = self.options.read_timeout
            self._refuse(RequestError(f"the request did not arrive within {seconds:g} s (--read-timeout)", status=408))
        else:
            self.transport.close()

    # -- refusals ------------------------------------------------------------------------------------------------

    def _refuse(self, error: RequestError) -> None:
        """Answer if that is possible between the answers of this connection, and end it."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused, self._is_arriving = True, False
        if self._is_unanswered():
            self._answer(error)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _is_unanswered(self) -> bool:
        """Whether the next bytes that the client expects are the answer to what is arriving."""
        if self.cycle is None or self._is_in_head:
            return self.cycle is None or self.cycle.response_complete
        return not self.cycle.response_started and not self.pipeline

    def _answer(self, error: RequestError) -> None:
        response = error_response(error, {"connection": "close"})
        headers = [b"%b: %b\r\n" % pair for pair in (*self.server_state.default_headers, *response.raw_headers)]
        self.transport.write(b"".join([STATUS_LINE[error.status], *headers, b"\r\n", bytes(response.body)]))

    def _upgrade(self) -> None:
        if self._should_upgrade():
            self._unwatch()
            self.handle_websocket_upgrade()
