"""The main job on real input: `sgcore serve` on SmolLM2, driven by the real `openai` client."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from sgcore.testing.sample import sample_model_path

MODEL = sample_model_path()
pytestmark = [
    pytest.mark.skipif(MODEL is None, reason="the sample model's package is not installed"),
    pytest.mark.timeout(600),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A `sgcore serve` process on a free port."""

    def __init__(self, log: Path, *flags: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "sgcore.cli", "serve", str(MODEL), "--port", str(self.port)]
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*command, "--served-model-name", "smol", "--max-total-tokens", "16384", *flags], stdout=out, stderr=out
            )
        self._wait_ready()

    def _wait_ready(self) -> None:
        for _ in range(1200):
            if self.process.poll() is not None:
                raise AssertionError(self.log.read_text())
            try:
                if httpx2.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError("the server did not become ready")

    @property
    def core(self) -> psutil.Process:
        (child,) = [
            p for p in psutil.Process(self.process.pid).children() if "sgcore.engine.process" in " ".join(p.cmdline())
        ]
        return child

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300, **options)

    def running(self) -> int:
        text = httpx2.get(f"{self.url}/metrics", timeout=30).text
        found = re.search(r"^sgcore:num_running_reqs\{[^}]*\} (\S+)", text, re.MULTILINE)
        return int(float(found.group(1))) if found else -1

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server") / "log")
    yield started
    assert started.stop() == 0, started.log.read_text()


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="smol", messages=messages, temperature=0, **options)


def test_a_chat_answers(server: Server) -> None:
    reply = ask(server.client(), "What is the capital of France?", max_tokens=20)
    assert "Paris" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.prompt_tokens_details.cached_tokens >= 0


def test_a_stream_says_the_same_and_reports_usage(server: Server) -> None:
    client = server.client()
    whole = ask(client, "Name three colors.", max_tokens=24)
    chunks = list(ask(client, "Name three colors.", max_tokens=24, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0


def test_the_engine_in_process_gives_the_same_text(server: Server) -> None:
    from sgcore import Engine

    body = {"text": "The three primary colors are", "sampling_params": {"temperature": 0, "max_new_tokens": 16}}
    over_http = httpx2.post(f"{server.url}/generate", json=body, timeout=300).json()
    with Engine(model_path=str(MODEL), max_total_tokens=4096) as engine:
        here = engine.generate(body["text"], body["sampling_params"])
    assert here["output_ids"] == over_http["output_ids"] and here["text"] == over_http["text"]


def test_samples_and_logprobs(server: Server) -> None:
    client = server.client()
    messages: Any = [{"role": "user", "content": "Say a word."}]
    options: Any = {"model": "smol", "messages": messages, "max_tokens": 6, "seed": 5, "temperature": 1.0}
    reply = client.chat.completions.create(**options, n=3, logprobs=True, top_logprobs=2)
    again = client.chat.completions.create(**options, n=3)
    texts = [choice.message.content for choice in reply.choices]
    assert len(set(texts)) > 1 and texts == [choice.message.content for choice in again.choices]
    entry = reply.choices[0].logprobs.content[0]
    assert len(entry.top_logprobs) == 2 and entry.logprob <= entry.top_logprobs[0].logprob <= 0


def test_errors_are_openais(server: Server) -> None:
    client = server.client()
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="longest"):
        client.completions.create(model="smol", prompt="word " * 20000)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="smol", prompt="hi", temperature=-1)


def test_a_cancelled_stream_ends_its_request(server: Server) -> None:
    stream = ask(server.client(), "Tell a very long story.", max_tokens=2000, stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 20
    while server.running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.running() == 0


def test_64_clients_at_once(server: Server) -> None:
    client = server.client()

    def one(number: int) -> Any:
        return ask(client, f"What is {number} plus one?", max_tokens=8, stream=number % 2 == 0)

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(lambda n: list(one(n)) if n % 2 == 0 else one(n), range(64)))
    for number, reply in enumerate(replies):
        ended = reply[-1].choices[0].finish_reason if number % 2 == 0 else reply.choices[0].finish_reason
        assert ended in ("stop", "length")


def test_kill_of_the_core_under_load(tmp_path: Path) -> None:
    server = Server(tmp_path / "log")
    client = server.client()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask, client, "Count to a thousand.", max_tokens=1500) for _ in range(8)]
        while server.running() < 8:
            time.sleep(0.1)
        os.kill(server.core.pid, signal.SIGKILL)
        for future in waiting:
            with pytest.raises(openai.APIStatusError, match="core"):
                future.result(timeout=60)
    assert server.process.wait(timeout=60) == 1
    assert "SIGKILL" in server.log.read_text()
