"""Threads that make a step's calls together wait for each other by the language's memory model alone.

x86 keeps most of the order that ARM gives only where it is asked for, so a run there proves little; the compiler's race
detector follows the model instead.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sgcore_cpu.native import build

DRIVER = Path(__file__).parent / "meeting.cpp"
RACE = 66
"""What a program ends with in which ThreadSanitizer has found one."""


def compiled(folder: Path, *sources: Path) -> Path:
    compiler, made = shutil.which("g++") or "g++", folder / "driver"
    flags = ["-std=c++17", "-O1", "-g", "-pthread", "-fsanitize=thread", "-DSGCORE_LEVEL=sgcore_cpu_baseline"]
    command = [compiler, *flags, f"-I{build.SOURCES}", *map(str, sources), "-o", str(made), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return made


def ended(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module", autouse=True)
def needs_detector(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("detector")
    source = folder / "nothing.cpp"
    source.write_text("int main() {}")
    try:
        works = ended(compiled(folder, source)).returncode == 0
    except (OSError, subprocess.CalledProcessError):
        works = False
    if not works:
        pytest.skip("g++ has no ThreadSanitizer that runs here (on Debian: apt install g++)")


def test_what_was_written_before_a_meeting_is_read_after_it(tmp_path: Path) -> None:
    done = ended(compiled(tmp_path, DRIVER, build.SOURCES / "runtime.cpp"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("order", ["__ATOMIC_ACQ_REL", "__ATOMIC_RELEASE", "__ATOMIC_ACQUIRE"])
def test_a_missing_order_is_found(tmp_path: Path, order: str) -> None:
    text = (build.SOURCES / "runtime.cpp").read_text()
    assert text.count(order) == 1
    weaker = tmp_path / "runtime.cpp"
    weaker.write_text(text.replace(order, "__ATOMIC_RELAXED"))
    assert ended(compiled(tmp_path, DRIVER, weaker)).returncode == RACE
