"""Ctrl-C at any moment: one line, exit code 130, no traceback, and no process left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.integration.serving import Server
from tests.server.test_openai import wait_until

LIMIT_S = 60
SHAPE = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 128, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}  # fmt: skip


def status(server: Server, path: str) -> int:
    try:
        return httpx2.get(f"{server.url}{path}", timeout=LIMIT_S).status_code
    except httpx2.TransportError:
        return 0


def has_core(server: Server) -> bool:
    return bool(psutil.Process(server.process.pid).children())


MOMENTS: dict[str, Callable[[Server], bool]] = {
    "while it plans": has_core,
    "while it loads": lambda server: status(server, "/health") > 0,
    "while it serves": lambda server: status(server, "/ready") == 200,
}


def checked(text: str, lines: list[str]) -> None:
    assert "Traceback" not in text
    assert [line for line in text.splitlines() if line.startswith("interrupted")] == lines


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    started = Server(tmp_path / "log", "--load-format", "dummy", "--skip-tokenizer-init", model=tmp_path)
    yield started
    started.process.kill()
    started.process.wait(LIMIT_S)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_server(moment: str, server: Server) -> None:
    wait_until(lambda: MOMENTS[moment](server), LIMIT_S)
    (core,) = psutil.Process(server.process.pid).children()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(LIMIT_S) == 130
    checked(server.log.read_text(), ["interrupted"])
    core.wait(LIMIT_S)


@pytest.mark.slow
def test_a_server_twice_while_a_request_runs(server: Server) -> None:
    core = server.wait_ready().core
    sampling = {"n": 64, "max_new_tokens": 4000, "ignore_eos": True}  # far longer than it takes to press a key
    body = {"input_ids": [1, 2], "sampling_params": sampling, "stream": True}
    with httpx2.stream("POST", f"{server.url}/generate", json=body, timeout=LIMIT_S) as reply:
        chunks = reply.iter_bytes()  # kept: its end would end the stream
        next(chunks)
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Ctrl-C again ends at once" in server.log.read_text(), LIMIT_S)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(LIMIT_S) == 130
    core.wait(LIMIT_S)
    assert "Traceback" not in server.log.read_text()


class Held(BaseHTTPRequestHandler):
    """Lists a model and tokenises; an answer begins and doesn't end."""

    asked: threading.Semaphore
    may_end: threading.Event

    def do_GET(self) -> None:
        self._send(b'{"data": [{"id": "held"}]}')
        self.asked.release()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/tokenize":
            self._send(b'{"tokens": [1, 2, 3, 4]}')
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b'data: {"choices": [{"delta": {"content": "Hel"}}]}\n\n')
        self.asked.release()
        self.may_end.wait(LIMIT_S)

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *values: object) -> None:
        """Say nothing."""


@pytest.fixture
def held() -> Iterator[str]:
    Held.asked, Held.may_end = threading.Semaphore(0), threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Held)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    Held.may_end.set()
    server.shutdown()
    server.server_close()


def start(*words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "sgcore.cli", *words], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def test_a_chat_in_an_answer_and_at_the_prompt(held: str) -> None:
    with start("chat", "--base-url", held) as chat:
        assert chat.stdin is not None and chat.stdout is not None and chat.stderr is not None
        chat.stdin.write("Say hello.\n")
        chat.stdin.flush()
        assert chat.stdout.read(3) == "Hel"
        chat.send_signal(signal.SIGINT)
        assert chat.stdout.readline() == " (broken off)\n"
        chat.send_signal(signal.SIGINT)
        assert chat.wait(LIMIT_S) == 130
        checked(chat.stderr.read(), ["interrupted"])


def test_a_benchmark_under_load(held: str) -> None:
    sizes = ["--random-input-len", "4", "--random-range-ratio", "1", "--num-prompts", "4", "--warmup-requests", "0"]
    with start("bench", "--backend", "openai-chat", "--base-url", held, *sizes) as bench:
        for _ in range(5):  # the list of models, and all requests
            assert Held.asked.acquire(timeout=LIMIT_S)
        bench.send_signal(signal.SIGINT)
        _, errors = bench.communicate(timeout=LIMIT_S)
        assert bench.returncode == 130
        checked(errors, ["interrupted"])
