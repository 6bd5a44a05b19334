"""A real `sgcore serve` process, over the sample model unless told otherwise."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from sgcore.testing.sample import sample_model_path

MODEL = sample_model_path()
needs_model = pytest.mark.skipif(MODEL is None, reason="the sample model's package is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server on a free port, called `smol`."""

    def __init__(self, log: Path, *flags: str, model: Path | None = MODEL) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "sgcore.cli", "serve", str(model), "--port", str(self.port)]
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*command, "--served-model-name", "smol", "--max-total-tokens", "16384", *flags], stdout=out, stderr=out
            )

    def wait_ready(self) -> Server:
        for _ in range(3000):
            if self.process.poll() is not None:
                raise AssertionError(self.log.read_text())
            try:
                if httpx2.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return self
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
