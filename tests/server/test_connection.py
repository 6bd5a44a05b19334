"""What a connection may say and for how long, as bytes on a socket: every refusal has the server's shape."""

from __future__ import annotations

import json
import logging
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.server.conftest import running
from tests.server.fake import FakeFrontend
from tests.server.test_openai import wait_until

HEAD = b"POST /tokenize HTTP/1.1\r\nHost: a\r\ncontent-type: application/json\r\n"
BODY = b'{"prompt": "a"}'
WHOLE = HEAD + b"content-length: 15\r\n\r\n" + BODY
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
LIMITS = {"max_header_bytes": 2000, "max_body_bytes": 100_000}


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with running(FakeFrontend(), **LIMITS) as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def hasty() -> Iterator[int]:
    """A server that waits for nobody."""
    with running(FakeFrontend(), read_timeout=0.3, max_connections=20) as url:
        yield int(url.rpartition(":")[2])


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        yield client


def said(client: socket.socket) -> bytes:
    """Everything until the server ends the connection."""
    blocks = []
    try:
        while block := client.recv(65536):
            blocks.append(block)
    except ConnectionResetError:
        pass
    return b"".join(blocks)


def exchange(port: int, *parts: bytes) -> tuple[int, Any]:
    """Status and JSON of the answer to some bytes, behind which the client says nothing more."""
    with connected(port) as client:
        for part in parts:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        head, _, body = said(client).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def refused(port: int, *parts: bytes) -> tuple[int, str]:
    status, body = exchange(port, *parts)
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return status, body["error"]["message"]


REFUSED = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed HTTP"),
    "no version": (b"GET / HTTP/9\r\n\r\n", 400, "malformed HTTP"),
    "no target": (b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed HTTP"),
    "no path": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404, "no route"),
    "bad header": (b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", 400, "malformed HTTP"),
    "two lengths": (HEAD + b"content-length: 15\r\ncontent-length: 16\r\n\r\n" + BODY, 400, "malformed HTTP"),
    "bad chunk": (CHUNKED + b"zz\r\n", 400, "malformed HTTP"),
    "no Host": (b"GET /health HTTP/1.1\r\n\r\n", 400, "has 0"),
    "two Hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "has 2"),
    "bad Host": (b"GET /health HTTP/1.1\r\nHost: a/b?c\r\n\r\n", 400, "no host name"),
    "long path": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "8192"),
    "a long header": (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * 2000 + b"\r\n\r\n", 431, "--max-header-bytes"),
    "many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x:\r\n" * 500 + b"\r\n", 431, "--max-header-bytes"),
    "a header without end": (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * 10_000, 431, "--max-header-bytes"),
    "nothing but line breaks": (b"\r\n" * 10_000, 431, "--max-header-bytes"),
    "trailers without end": (CHUNKED + b"0\r\nx: " + b"a" * 10_000, 431, "--max-header-bytes"),
    "chunk extensions": (CHUNKED + b"1;" + b"a" * 10_000, 431, "--max-header-bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_refused_in_the_same_shape(server: int, name: str) -> None:
    sent, status, says = REFUSED[name]
    found, message = refused(server, sent)
    assert found == status and says in message
    assert exchange(server, WHOLE.replace(b"\r\nHost", b"\r\nconnection: close\r\nHost", 1))[0] == 200


def test_a_header_that_never_ends_is_refused_while_it_comes(server: int) -> None:
    with connected(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nx: ")
        sent = 0
        with pytest.raises(OSError):  # reset or broken pipe: the server has gone
            for _ in range(10_000):
                client.sendall(b"a" * 65536)
                sent += 65536
        assert sent < 200 << 20


def test_the_limit_counts_for_each_request_of_a_connection(server: int) -> None:
    with connected(server) as client:
        for _ in range(3):  # more than the limit together, and a body larger than it
            client.sendall(HEAD + b"x: " + b"a" * 1500 + b"\r\ncontent-length: 50015\r\n\r\n" + b" " * 50_000 + BODY)
            reply = client.recv(65536)
            assert reply.startswith(b"HTTP/1.1 200"), reply
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * 2000 + b"\r\n\r\n")
        assert said(client).startswith(b"HTTP/1.1 431")


def test_a_body_in_the_smallest_chunks_and_trailers(server: int) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b" " * 5000 + BODY)
    status, body = exchange(server, CHUNKED + chunks + b"0\r\nx-trailer: 1\r\n\r\n")
    assert status == 200 and body["count"] == 2


def test_trailers_are_no_headers(server: int) -> None:
    """Whoever looks at headers has done so before the trailers come."""
    late = b"POST /tokenize HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\nx-request-id: early\r\n\r\n"
    with connected(server) as client:
        client.sendall(late + b"f\r\n" + BODY + b"\r\n0\r\nx-request-id: late\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert b"x-request-id: early" in said(client)


def test_old_clients_need_no_host(server: int) -> None:
    with connected(server) as client:
        client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert said(client).startswith(b"HTTP/1.1 200")


SLOW = {
    "headers": b"GET /health HTTP/1.1\r\nHost: a\r\nx: ",
    "a body": HEAD + b"content-length: 15\r\n\r\n{",
    "chunks": CHUNKED + b"f\r\n{",
    "line breaks": b"\r\n",
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("is_kept", [False, True], ids=["first", "second"])
def test_who_sends_too_slowly_is_told_and_left(hasty: int, name: str, is_kept: bool) -> None:
    with connected(hasty) as client:
        if is_kept:
            client.sendall(WHOLE)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(SLOW[name])
        for _ in range(3):  # a byte now and then changes nothing
            time.sleep(0.05)
            client.sendall(b"\r\n" if name == "line breaks" else b" ")
        head, _, body = said(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408") and re.search(rb"connection: close", head)
    assert "--read-timeout" in json.loads(body)["error"]["message"]


def test_who_says_nothing_is_left_without_a_word(hasty: int) -> None:
    with connected(hasty) as client:
        assert said(client) == b""


def test_connections_are_bounded_and_come_back(hasty: int) -> None:
    held = [socket.create_connection(("127.0.0.1", hasty), timeout=20) for _ in range(40)]
    try:
        answers = [said(client) for client in held]
        over = [answer for answer in answers if answer]
        assert len(over) >= 20 and all(answer.startswith(b"HTTP/1.1 503") for answer in over)
        assert b"connections are open" in over[0] and b"retry-after" in over[0]
    finally:
        for client in held:
            client.close()
    assert exchange(hasty, WHOLE)[0] == 200


def test_a_malformed_request_behind_one_that_runs_ends_it_without_a_second_answer() -> None:
    with running(FakeFrontend(step_s=0.02)) as url, connected(int(url.rpartition(":")[2])) as client:
        body = b'{"prompt": "a", "max_tokens": 50, "stream": true}'
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert b"200 OK" in client.recv(65536)
        client.sendall(b"nonsense\r\n\r\n")
        assert b"HTTP/1.1" not in said(client)


def test_streams_that_are_reset_leave_nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    frontend = FakeFrontend(step_s=0.001)
    body = b'{"prompt": "a", "max_tokens": 3000, "stream": true}'
    asked = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with running(frontend) as url:
        clients = [socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) for _ in range(30)]
        for client in clients:
            client.sendall(asked)
        for number, client in enumerate(clients):
            if number % 3:
                client.recv(1 << (4 + number % 12))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        wait_until(lambda: not frontend.running)
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
