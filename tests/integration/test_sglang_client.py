"""SGLang's own client gets from a server what sgcore's gets, and what it needs of other routes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sgcore_lang
from tests.integration.serving import Server

ROOT = Path(__file__).parents[2]
CLIENT = Path(sys.prefix) / "sglang"
PROGRAM = """
import json, sys
from examples import sglang_client as example
sgl, backend = example.language(), example.endpoint(sys.argv[1])
backend.flush_cache()
backend.cache_prefix("Once upon a time")
assert backend.get_server_info()["version"]
print(json.dumps(example.run(sgl, backend)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not CLIENT.exists(), reason="SGLang's client is not installed: make sglang-client")
def test_both_clients_find_the_same(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join([str(ROOT), str(CLIENT)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.url],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout)
    monkeypatch.syspath_prepend(ROOT)
    from examples.sglang_client import run

    ours: dict[str, Any] = run(sgcore_lang, sgcore_lang.RuntimeEndpoint(server.url))
    for found in (theirs, ours):
        assert "".join(found.pop("pieces")) == found["story"]
        assert all(found.pop("answers"))  # theirs has chat templates of its own
    assert theirs == ours
