"""The server's life as an operator sees it: a process, signals, exit codes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import msgspec
import pytest

from sgcore.config import ServerOptions
from sgcore.errors import LaunchError
from sgcore.server.launch import banner, listen, server_options
from tests.server.fake import make_plan
from tests.server.test_openai import wait_until

ROOT = Path(__file__).parents[2]


@dataclass
class Served:
    """A server process and what it printed."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)

    def read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def says(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    def status(self) -> int:
        try:
            return httpx2.get(f"{self.url}/health").status_code
        except httpx2.TransportError:
            return 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def served(start_s: float = 0.0, timeout_s: float = 10.0) -> Iterator[Served]:
    port = free_port()
    command = [sys.executable, "-m", "tests.server.serve_fake", str(port), str(start_s), str(timeout_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        server = Served(process, f"http://127.0.0.1:{port}")
        reader = threading.Thread(target=server.read)
        reader.start()
        try:
            yield server
        finally:
            process.kill()
            reader.join()


@contextmanager
def streaming(server: Served, tokens: int) -> Iterator[list[str]]:
    """A stream that has begun; its lines arrive in the list."""
    lines: list[str] = []

    def read() -> None:
        body = {"prompt": "a", "max_tokens": tokens, "stream": True}
        with httpx2.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as reply:
            lines.extend(event.data for event in httpx2.EventSource(reply))

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: lines)
    yield lines
    thread.join()


@pytest.mark.parametrize("sent, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_an_idle_server_ends_at_once(sent: signal.Signals, code: int) -> None:
    with served(timeout_s=600) as server:
        wait_until(lambda: server.says("ready to roll!"), 60)
        assert server.status() == 200
        assert server.says("weights  1 MiB") and server.says(f"curl {server.url}/v1/chat/completions")
        server.process.send_signal(sent)
        assert server.process.wait(60) == code


def test_health_answers_while_the_engine_starts() -> None:
    with served(start_s=600) as server:
        wait_until(lambda: server.status() == 503, 60)
        reply = httpx2.post(f"{server.url}/generate", json={"text": "a"})
        assert reply.status_code == 503 and "starting" in reply.text
        server.process.terminate()
        assert server.process.wait(60) == 0


def test_running_requests_are_finished_before_the_end() -> None:
    with served() as server:
        wait_until(lambda: server.says("ready to roll!"), 60)
        with streaming(server, 30) as lines:
            server.process.terminate()
            wait_until(lambda: server.status() == 503)
            assert httpx2.post(f"{server.url}/generate", json={"text": "a"}).status_code == 503
            assert server.process.wait(60) == 0
        assert lines[-1] == "[DONE]"


def test_the_drain_has_a_deadline() -> None:
    with served(timeout_s=0.5) as server:
        wait_until(lambda: server.says("ready to roll!"), 60)
        with streaming(server, 4000) as lines:
            server.process.terminate()
            assert server.process.wait(60) == 0
        assert '"finish_reason":"abort"' in lines[-2]
        assert server.says("--shutdown-timeout")


def test_the_engines_death_ends_the_server_with_one() -> None:
    with served() as server:
        wait_until(lambda: server.says("ready to roll!"), 60)
        with streaming(server, 4000) as lines:
            server.process.send_signal(signal.SIGUSR1)
            assert server.process.wait(60) == 1
        assert "killed" in lines[-1] and '"error"' in lines[-1]
        assert server.says("the engine core has died: killed")


def test_a_lost_device_starts_the_engine_again_a_few_times() -> None:
    with served(start_s=1) as server:
        wait_until(lambda: server.says("ready to roll!"), 60)
        with streaming(server, 4000) as lines:
            server.process.send_signal(signal.SIGUSR2)
            wait_until(lambda: "starts again: device lost" in httpx2.get(f"{server.url}/health").text)
            refused = httpx2.post(f"{server.url}/generate", json={"text": "a"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "restarting")
        assert "device lost" in lines[-1] and '"error"' in lines[-1]
        for _ in range(2):
            wait_until(lambda: server.status() == 200, 60)
            reply = httpx2.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 2}, timeout=20)
            assert reply.status_code == 200
            server.process.send_signal(signal.SIGUSR2)
            wait_until(lambda: server.status() == 503)
        wait_until(lambda: server.status() == 200, 60)
        assert "sgcore:num_requests_total" in httpx2.get(f"{server.url}/metrics").text
        server.process.send_signal(signal.SIGUSR2)
        assert server.process.wait(60) == 1, "the fourth time"
        assert server.says("the engine core has died: device lost")


def test_a_failed_start_says_why() -> None:
    with served(start_s=-0.1) as server:
        assert server.process.wait(60) == 1
        wait_until(lambda: server.says("refused: no memory / buy more"))


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(LaunchError, match=f"{port}: Address already in use$") as caught:
            listen("127.0.0.1", port)
        assert "--port" in caught.value.hint
    with pytest.raises(LaunchError, match=r"no\.such\.host\.invalid, port 1: no such address"):
        listen("no.such.host.invalid", 1)


def test_the_banners_address_can_be_opened() -> None:
    text = banner([("a", "1"), ("long", "2")], "m", ServerOptions(host="0.0.0.0", api_key="sesame"), 5)
    body = msgspec.json.decode(text.partition(" -d '")[2].partition("'\n")[0])
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 64)
    assert "http://127.0.0.1:5\n" in text and "sesame" not in text and "authorization: Bearer" in text
    assert "http://[::1]:5\n" in banner([], "m", ServerOptions(host="::"), 5)


def test_options_of_the_plan_count_and_the_key_survives() -> None:
    plan = make_plan(api_key="sesame", port=5)
    options = server_options(plan)
    assert (options.port, options.api_key) == (5, "sesame")
