"""A server of one's own, for as long as the program runs."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2

from sgcore_lang import loop
from sgcore_lang.backends.server import RuntimeEndpoint
from sgcore_lang.errors import BackendError

POLL_S = 0.1


class Runtime:
    """Starts `sgcore serve MODEL` and waits until it answers; options are the server's, with `_` for `-`.

    Raises BackendError with the end of the server's output if it doesn't start.
    """

    def __init__(self, model_path: str, timeout_s: float = 600.0, api_key: str | None = None, **options: Any) -> None:
        self.url = f"http://127.0.0.1:{options.setdefault('port', _free_port())}"
        if api_key is not None:
            options["api_key"] = api_key
        flags = [part for name, value in options.items() for part in _flag(name, value)]
        with tempfile.NamedTemporaryFile(prefix="sgcore-runtime-", suffix=".log", delete=False) as log:
            self.log = Path(log.name)
            command = [sys.executable, "-m", "sgcore.cli", "serve", str(model_path), *flags]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.endpoint = RuntimeEndpoint(self.url, api_key)
        try:
            self._wait_ready(time.monotonic() + timeout_s)
        except BaseException:
            self.shutdown()
            raise

    def _wait_ready(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise BackendError(f"the server did not start:\n{self.log.read_text()[-2000:]}")
            try:
                if httpx2.get(f"{self.url}/ready", timeout=5).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(POLL_S)
        raise BackendError(f"the server was not ready in time; its output is in {self.log}")

    def shutdown(self) -> None:
        """End the server."""
        loop.wait(self.endpoint.close())
        self.process.terminate()
        self.process.wait()
        self.log.unlink(missing_ok=True)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] * value if isinstance(value, bool) else [flag, str(value)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
