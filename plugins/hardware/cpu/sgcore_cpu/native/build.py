"""Compiles the kernels once for each level of the processor.

The wheel's build does it unless that has been done from these sources; `python -m sgcore_cpu.native.build` always does.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent
LIBRARY = SOURCES / "libsgcore_cpu.so"
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")
VNNI = (*AVX512, "-mavx512vnni")
BF16 = (*VNNI, "-mavx512bf16")
AMX = (*BF16, "-mamx-tile", "-mamx-int8", "-mamx-bf16")
X86 = {"baseline": (), "avx2": AVX2, "avx512": AVX512, "avx512_vnni": VNNI, "avx512_bf16": BF16, "amx": AMX}
ARM = {"baseline": (), "neon_dotprod": ("-march=armv8.2-a+dotprod",)}
LEVELS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-Wno-psabi",
)


class BuildError(Exception):
    """Why there is no library."""


def levels() -> dict[str, tuple[str, ...]]:
    """Compiler flags for each level of this machine's architecture; `baseline` is NEON on ARM."""
    return LEVELS.get(platform.machine().lower(), {"baseline": ()})


def fingerprint() -> str:
    """A hash of the sources, which the library knows of those that it was made from."""
    files = sorted(path for path in SOURCES.iterdir() if path.suffix in (".h", ".cpp"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def build(
    target: Path = LIBRARY,
    wanted: Mapping[str, tuple[str, ...]] | None = None,
    warn: Callable[[str], object] = print,
) -> Path:
    """Compile and link `wanted`, or all of `levels`.

    Those whose flags the compiler doesn't know are left out, with a warning.
    Raises `BuildError` where there is no Linux, no C++ compiler, or one that can't.
    """
    if platform.system() != "Linux":
        raise BuildError(f"the kernels are built on Linux, and this is {platform.system()}")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise BuildError("there is no C++ compiler (on Debian: apt install g++)")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {}
        for name, flags in (wanted or levels()).items():
            if flags and not _knows(compiler, flags):
                warn(f"the level {name} is left out: {compiler} doesn't know one of {' '.join(flags)}")
            else:
                jobs[name] = ("level.cpp", (f"-DSGCORE_LEVEL={name}", *flags))
        jobs["runtime"] = ("runtime.cpp", (f'-DSGCORE_SOURCES="{fingerprint()}"',))
        objects = {name: str(Path(folder) / f"{name}.o") for name in jobs}
        commands = [
            [compiler, *FLAGS, *flags, "-c", str(SOURCES / source), "-o", objects[name]]
            for name, (source, flags) in jobs.items()
        ]
        list(pool.map(_run, commands))
        made = Path(folder) / target.name
        _run([compiler, "-shared", *objects.values(), "-o", str(made), "-ldl"])
        # At once: other processes may load it meanwhile, or have it loaded.
        near = target.with_suffix(f".{os.getpid()}")
        shutil.copy(made, near)
        near.replace(target)
    return target


def is_current(library: Path = LIBRARY) -> bool:
    """Whether this machine loads the library, and it was made from these sources."""
    try:
        sources = ctypes.CDLL(str(library)).sgcore_cpu_sources
    except (OSError, AttributeError):
        return False
    sources.restype = ctypes.c_char_p
    return bool(sources() == fingerprint().encode())


def _knows(compiler: str, flags: tuple[str, ...]) -> bool:
    """Whether it compiles nothing with them."""
    command = [compiler, *flags, "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")


if __name__ == "__main__":
    try:
        print(LIBRARY if "--if-changed" in sys.argv and is_current() else build())
    except BuildError as error:
        raise SystemExit(f"the kernels are not compiled: {error}") from error
