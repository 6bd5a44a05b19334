"""What the log says of requests, and what it never says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from sgcore.config import ServerOptions
from sgcore.engine.messages import Stats
from sgcore.server.activity import LoadLog, load_line
from sgcore.server.app import create_app
from tests.server.fake import FakeFrontend

SECRET = "a word that nobody may read"
LOGGER = "sgcore.server.activity"


class Lines(logging.Handler):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What the log says of requests."""
    caplog.set_level(logging.INFO)
    handler = Lines()
    logging.getLogger(LOGGER).addHandler(handler)
    yield handler.said
    logging.getLogger(LOGGER).removeHandler(handler)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": SECRET}]}),
        ("/v1/completions", {"prompt": SECRET}),
        ("/generate", {"text": SECRET}),
    ],
)
def test_a_line_has_tokens_times_and_the_id(
    client: TestClient, caplog: pytest.LogCaptureFixture, path: str, body: dict[str, Any], stream: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    limit = {"sampling_params": {"max_new_tokens": 3}} if path == "/generate" else {"max_tokens": 3}
    client.post(path, json=body | limit | {"stream": stream, "rid": "r-1"})
    (line,) = [message for message in caplog.messages if message.startswith("POST")]
    assert line.startswith(f"POST {path} 200 in ")
    assert "prompt tokens (1 cached), 3 generated, the first after 0." in line and line.endswith("rid r-1")
    assert SECRET not in caplog.text


def test_several_prompts_and_samples_are_counted_together(client: TestClient, lines: list[str]) -> None:
    client.post("/generate", json={"text": ["a", "b"], "sampling_params": {"max_new_tokens": 3, "n": 2}})
    assert "4 prompt tokens (2 cached), 12 generated" in lines[-1]


def test_a_program_is_counted_whole(client: TestClient, lines: list[str]) -> None:
    gen = {"gen": {"sampling_params": {"max_new_tokens": 2}}}
    client.post("/generate", json={"text": "a", "pieces": [gen, gen]})
    assert "4 generated" in lines[-1]


def test_refusals_have_a_line_that_says_nothing_of_the_body(client: TestClient, lines: list[str]) -> None:
    client.post("/generate", json={"text": SECRET, "sampling_params": {SECRET: 1}}, headers={"x-request-id": "q7"})
    assert lines[-1].startswith("POST /generate 400 in ") and lines[-1].endswith(", rid q7")
    assert not any(SECRET in line for line in lines)


def test_a_name_can_not_write_a_line_of_its_own(client: TestClient, lines: list[str]) -> None:
    client.post("/generate", json={"text": "a", "rid": "x\nPOST /forged 200", "sampling_params": {"max_new_tokens": 1}})
    client.get("/no%0Aroute\u2028" + "x" * 5000)
    assert all("\n" not in line and len(line) < 400 for line in lines)
    assert lines[-2].endswith(r"rid x\nPOST /forged 200")


def test_a_stream_that_fails_and_a_client_that_leaves(lines: list[str]) -> None:
    frontend = FakeFrontend(step_s=0.01)
    with TestClient(create_app(frontend, ServerOptions())) as client:
        body = {"prompt": "a", "max_tokens": 100, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as reply:
            frontend.failure = "gone"
            reply.read()
    assert lines[-1].startswith("POST /v1/completions 503 in ")
    frontend.failure = None
    asyncio.run(leave_early(create_app(frontend, ServerOptions())))
    assert lines[-1].startswith("POST /generate 499 in ") and "generated" in lines[-1]


async def leave_early(app: Any) -> None:
    """A client that is gone as soon as its body was read."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": b'{"text": "a"}'}]
    headers = [(b"host", b"a")]
    scope = {"type": "http", "method": "POST", "path": "/generate", "raw_path": b"/generate", "headers": headers}

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.sleep(0.05)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there")

    await app({**scope, "query_string": b"", "state": {}, "root_path": ""}, receive, send)


def test_probes_are_quiet_and_lines_can_be_left_out(client: TestClient, lines: list[str]) -> None:
    for path in ("/health", "/ready", "/ping", "/metrics"):
        client.get(path)
    TestClient(create_app(FakeFrontend(), ServerOptions(log_requests="off"))).get("/v1/models")
    assert not lines
    client.get("/v1/models")
    assert lines[-1].startswith("GET /v1/models 200 in ")


def test_the_load_is_told_while_there_is_any() -> None:
    before = Stats(prompt_tokens_total=100, prefix_hit_tokens_total=50, generated_tokens_total=10)
    assert load_line(before, before, 10) == ""
    after = Stats(
        running=3,
        queued=1,
        used_tokens=25,
        total_tokens=100,
        prompt_tokens_total=300,
        prefix_hit_tokens_total=100,
        generated_tokens_total=60,
    )
    told = "3 running, 1 queued; 20.0 tok/s in (25% cached), 5.0 tok/s out; KV cache 25% in use"
    assert load_line(before, after, 10) == told
    assert "0.0 tok/s out" in load_line(after, Stats(running=1), 10)  # a core that began anew


def test_the_loads_line_waits_for_its_time(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    load = LoadLog()
    load.tick(Stats(running=1))
    assert not lines
    monkeypatch.setattr("sgcore.server.activity.LOAD_EVERY_S", 0.0)
    load.tick(Stats(running=1))
    assert "1 running" in lines[0]
