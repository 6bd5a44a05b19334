"""What a server that is killed leaves behind: no process and, once another starts, no folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from transformers import LlamaConfig

from sgcore.engine import sockets
from sgcore.engine.client import start_owned
from sgcore.engine.sockets import SocketFolder

PLANS = """
import sys, threading
from sgcore.config import Choices
from sgcore.engine import client
started = client.start_owned
def told(command):
    process = started(command)
    print(process.pid, flush=True)
    return process
client.start_owned = told
options = dict(load_format="dummy", skip_tokenizer_init=True, platform="cpu", max_total_tokens=64)
client.start_planning_core(Choices.of(model_path=sys.argv[1], **options), {})
threading.Event().wait()
"""


def wait_gone(pid: int, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, f"process {pid} still runs: {psutil.Process(pid).cmdline()}"
        time.sleep(0.05)


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.6])
def test_a_core_ends_with_a_server_that_is_killed_while_it_starts(tmp_path: Path, after_s: float) -> None:
    shape = dict(vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
    LlamaConfig(**shape, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    with subprocess.Popen([sys.executable, "-c", PLANS, tmp_path], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        core = int(server.stdout.readline())
        time.sleep(after_s)
        server.kill()
    wait_gone(core)


def test_a_core_whose_parent_has_ended_already_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sgcore.engine.process", str(tmp_path), "1"]
    done = subprocess.run(command, input="no JSON", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")


def test_nothing_large_is_imported_before_the_parent_is_known() -> None:
    code = "import sys; before = set(sys.modules); import sgcore.engine.process; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {name.partition(".")[0] for name in done.stdout.split()}
    assert names.isdisjoint({"zmq", "msgspec", "pydantic", "torch", "numpy", "transformers"})


def test_a_process_outlives_the_thread_that_asked_for_it() -> None:
    code = "import os, sgcore.engine.process as p; p.end_with(os.getppid()); print(1, flush=True); input()"
    found: list[subprocess.Popen[str]] = []
    thread = threading.Thread(target=lambda: found.append(start_owned([sys.executable, "-c", code])))
    thread.start()
    thread.join()
    (process,) = found
    try:
        time.sleep(0.5)
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        process.kill()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(sockets, "YOUNG_S", -1.0)
    return tmp_path


HOLDS = "from sgcore.engine.sockets import SocketFolder; f = SocketFolder(); print(f.path, flush=True); input()"


def test_the_folder_of_a_killed_server_is_removed_and_that_of_a_living_one_stays(temporary: Path) -> None:
    environment = os.environ | {"TMPDIR": str(temporary)}
    command = [sys.executable, "-c", HOLDS]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        left = Path(server.stdout.readline().strip())
        (left / "to-core").touch()
        own = SocketFolder()
        assert left.is_dir()
        server.send_signal(signal.SIGKILL)
    another = SocketFolder()
    assert not left.exists() and own.path.is_dir()
    for folder in (own, another):
        folder.remove()
    assert list(temporary.iterdir()) == []


def test_a_young_folder_and_what_is_not_ours_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = temporary / "elsewhere"
    (elsewhere / "kept").mkdir(parents=True)
    link, young = temporary / f"{sockets.PREFIX}link", temporary / f"{sockets.PREFIX}young"
    link.symlink_to(elsewhere)
    young.mkdir()
    monkeypatch.setattr(sockets, "YOUNG_S", 60.0)
    sockets.remove_stale(temporary)
    assert young.is_dir()
    monkeypatch.setattr(sockets, "YOUNG_S", -1.0)
    monkeypatch.setattr("os.getuid", lambda: -1)
    sockets.remove_stale(temporary)
    assert young.is_dir()
    monkeypatch.undo()
    assert (elsewhere / "kept").is_dir() and link.is_symlink()
