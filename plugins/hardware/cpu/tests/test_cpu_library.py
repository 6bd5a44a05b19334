"""The library says what it uses, does what the environment says, and shares torch's threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sgcore.errors import LaunchError
from sgcore_cpu import library
from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.native import build

NO_LIBRARY = "no native library (on Debian: apt install g++; then make setup)"
needs_library = pytest.mark.skipif(not library.usable_levels(), reason=NO_LIBRARY)


@needs_library
def test_a_level_is_forced_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for level in (*library.usable_levels(), library.OFF):
        monkeypatch.setenv(library.LEVEL, level)
        assert library.chosen_level() == level and level in library.describe() + library.OFF
        assert (CpuKernels().library is None) == (level == library.OFF)
    monkeypatch.delenv(library.LEVEL)
    assert library.chosen_level() == library.usable_levels()[-1]


def test_a_level_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.LEVEL, "abacus")
    with pytest.raises(LaunchError, match="abacus"):
        CpuKernels()


def test_without_a_library_torch_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_shared", lambda: None)
    monkeypatch.delenv(library.LEVEL, raising=False)
    assert library.chosen_level() == library.OFF and "torch" in library.describe()
    x = torch.randn(3, 32)
    assert torch.allclose(CpuKernels().rms_norm(x, torch.ones(32), 1e-5), x * x.square().mean(1, True).rsqrt())


@needs_library
def test_a_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "fingerprint", lambda: "of other sources")
    library._shared.cache_clear()
    with pytest.raises(LaunchError, match="other sources"):
        library.usable_levels()
    library._shared.cache_clear()


def test_without_a_compiler_the_build_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match="compiler"):
        build.build(tmp_path / "none.so")
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(build.BuildError, match="/bin/false"):
        build.build(tmp_path / "none.so")


@needs_library
def test_threads_are_torchs_and_idle_ones_sleep() -> None:
    code = """if True:
        import os, time, torch
        from sgcore_cpu.kernels import CpuKernels
        torch.set_num_threads(2)
        kernels, x = CpuKernels(), torch.randn(64, 4096)
        x @ x.T
        before = len(os.listdir("/proc/self/task"))
        weight = kernels.pack(torch.randn(4096, 4096))
        kernels.linear(x, weight)
        print(len(os.listdir("/proc/self/task")) - before)
        time.sleep(0.5)
        began = time.process_time()
        time.sleep(0.5)
        print(time.process_time() - began)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    new_threads, idle_s = done.stdout.split()
    assert int(new_threads) == 0 and float(idle_s) < 0.1


@pytest.mark.parametrize("source, defines", [("level.cpp", ["-DSGCORE_LEVEL=baseline"]), ("runtime.cpp", [])])
def test_the_lowest_level_compiles_for_arm(tmp_path: Path, source: str, defines: list[str]) -> None:
    pytest.importorskip("ziglang", reason="pip install ziglang: a compiler for other processors")
    target = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu"]
    made = tmp_path / "made.o"
    command = [*target, *build.FLAGS, *defines, "-c", str(build.SOURCES / source), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    machine = int.from_bytes(made.read_bytes()[18:20], "little")
    assert machine == 183  # EM_AARCH64


@needs_library
def test_a_library_is_current_until_a_source_changes(monkeypatch):
    assert build.is_current()
    monkeypatch.setattr(build, "fingerprint", lambda: "other sources")
    assert not build.is_current()


def test_a_library_of_another_machine_is_not_current(tmp_path):
    made = tmp_path / "made.so"
    made.write_bytes(b"no library")
    assert not build.is_current(made) and not build.is_current(tmp_path / "none.so")
