"""A server that nobody asks uses no processor time."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2
import psutil

from tests.integration.serving import Server, needs_model

IDLE_S = 4.0
MOST_PERCENT = 3.0
"""Of a core; it is 0.3 where nothing else runs."""


def used_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@needs_model
def test_an_idle_server_uses_no_cpu(tmp_path: Path) -> None:
    server = Server(tmp_path / "log").wait_ready()
    try:
        asked = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 4}}
        httpx2.post(f"{server.url}/generate", json=asked, timeout=60).raise_for_status()
        time.sleep(1.0)
        root = psutil.Process(server.process.pid)
        processes = [root, *root.children(recursive=True)]
        assert len(processes) == 2
        before = used_s(processes)
        time.sleep(IDLE_S)
        assert 100 * (used_s(processes) - before) / IDLE_S < MOST_PERCENT
    finally:
        server.process.terminate()
        server.process.wait(timeout=60)
