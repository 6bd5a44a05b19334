"""`sgcore serve OWNER/NAME` against a server that has the hub's routes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c" * 40
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 8,
    "max_position_embeddings": 8,
}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors": (2).to_bytes(8, "little") + b"{}",
    "pytorch_model.bin": b"not wanted",
}
GATED = "owner/gated"


class Hub(BaseHTTPRequestHandler):
    """One model, `owner/tiny`: its list of files, and each file."""

    fetched: list[str]

    def do_HEAD(self) -> None:
        self._answer(sends_body=False)

    def do_GET(self) -> None:
        self._answer(sends_body=True)

    def _answer(self, sends_body: bool) -> None:
        if GATED in self.path:
            self._send(403, b"{}", sends_body, {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"})
        elif self.path.startswith("/api/models/owner/tiny/tree/"):
            entries = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": "0" * 40} for name in FILES]
            self._send(200, json.dumps(entries).encode(), sends_body, {})
        elif self.path.startswith("/api/models/owner/tiny/"):
            files = [{"rfilename": name} for name in FILES]
            body = json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": files, "private": False})
            self._send(200, body.encode(), sends_body, {})
        elif self.path.startswith("/owner/tiny/resolve/"):
            name = self.path.rpartition("/")[2]
            if sends_body:
                self.fetched.append(name)
            etag = f'"{hashlib.sha256(FILES[name]).hexdigest()}"'
            self._send(200, FILES[name], sends_body, {"ETag": etag, "X-Repo-Commit": COMMIT})
        else:
            self._send(404, b"{}", sends_body, {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, body: bytes, sends_body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if sends_body:
            self.wfile.write(body)

    def log_message(self, *values: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    Hub.fetched = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def explain(hub: ThreadingHTTPServer, home: Path, model: str) -> subprocess.CompletedProcess[str]:
    """`sgcore serve MODEL --explain`: fetches and plans, and loads nothing."""
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, "-m", "sgcore.cli", "serve", model, "--explain"],
        capture_output=True,
        text=True,
        env=os.environ | settings,
        timeout=100,
    )


def test_a_hub_id_is_fetched_once_with_progress(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    first = explain(hub, tmp_path, "owner/tiny")
    assert first.returncode == 0, first.stderr
    assert COMMIT in first.stdout and "LlamaForCausalLM" in first.stdout
    assert "%|" in first.stderr
    assert sorted(Hub.fetched) == ["config.json", "model.safetensors"]
    again = explain(hub, tmp_path, "owner/tiny")
    assert again.returncode == 0 and len(Hub.fetched) == 2


@pytest.mark.parametrize(
    ("model", "says"), [(GATED, "is gated"), ("owner/nobody", "neither a local path nor a model on the hub")]
)
def test_the_hub_says_no(hub: ThreadingHTTPServer, tmp_path: Path, model: str, says: str) -> None:
    done = explain(hub, tmp_path, model)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
