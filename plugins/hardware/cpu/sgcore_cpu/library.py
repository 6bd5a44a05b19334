"""The native library: which level of the processor it uses, and its functions."""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any, Protocol

from sgcore.errors import LaunchError
from sgcore_cpu.native.build import LIBRARY, fingerprint, levels

LEVEL = "SGCORE_CPU_LEVEL"
"""Environment: a level of `levels`, or `off`: torch computes everything."""
OFF = "off"
P, N, F, D, BOOL = c_void_p, c_int64, c_float, c_double, c_int
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "add_rms_norm": (P, N, P, N, P, F, P, P, N, N, BOOL, N),
    "silu_mul": (P, P, N, N, BOOL, N),
    "rotary_write": (P, N, N, N, N, P, P, F, P, P, P, P, P, BOOL, BOOL, N),
    "copy_rows": (P, N, P, P, N, P, N, N, N),
    "greedy": (P, N, N, P, BOOL, N),
    "sample": (P, N, N, P, P, P, P, P, P, P, N),
    "attention": (P, N, P, P, P, P, P, D, BOOL, BOOL, N),
    "pack_panels": (P, N, N, P, N),
    "linear_panels": (P, N, N, N, P, P, P, N, N),
    "linear_bfloats": (P, N, N, N, P, P, P, N, N),
    "linear_int": (P, N, N, N, P, N, N, P, P, BOOL, N, N, P, P, P, F, BOOL, N),
}
"""As in `native/level.cpp`; the last argument is always the number of threads."""


class Recorder(Protocol):
    """Takes down calls instead of having them made."""

    def add(self, function: Function, arguments: tuple[Any, ...]) -> None: ...


class _Recording(threading.local):
    recorder: Recorder | None = None


recording = _Recording()
"""Of this thread."""


class Function:
    """One of `SIGNATURES`."""

    __slots__ = ("from_words", "native")

    def __init__(self, native: Any, from_words: Any) -> None:
        self.native, self.from_words = native, from_words

    def __call__(self, *arguments: Any) -> None:
        if recording.recorder is None:
            self.native(*arguments)
        else:
            recording.recorder.add(self, arguments)


class Library:
    """The functions of one level, as attributes named as in `SIGNATURES`."""

    def __init__(self, level: str) -> None:
        self.level = level
        shared = _shared()
        assert shared is not None
        shared.sgcore_cpu_find_openmp()
        for name, types in SIGNATURES.items():
            native, from_words = (getattr(shared, f"{full}_{level}") for full in (name, f"{name}_from_words"))
            native.argtypes, native.restype = types, None
            setattr(self, name, Function(native, from_words))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def replay(calls: Any, count: int, threads: int) -> None:
    """Make `count` recorded calls, pairs of a function from words and its words, with so many threads."""
    shared = _shared()
    assert shared is not None
    shared.sgcore_cpu_replay(calls, c_int64(count), c_int64(threads))


@cache
def _shared() -> ctypes.CDLL | None:
    """Raises `LaunchError` for a library that was not compiled from the sources beside it: its calls may differ."""
    if not LIBRARY.exists():
        return None
    shared = ctypes.CDLL(str(LIBRARY))
    if _sources_of(shared) != fingerprint():
        raise LaunchError("sgcore-cpu's library was compiled from other sources", "python -m sgcore_cpu.native.build")
    return shared


def _sources_of(shared: ctypes.CDLL) -> str | None:
    if not hasattr(shared, "sgcore_cpu_sources"):
        return None
    shared.sgcore_cpu_sources.restype = ctypes.c_char_p
    return str(shared.sgcore_cpu_sources().decode())


def usable_levels() -> tuple[str, ...]:
    """The levels that this processor runs and the compiler made, the best last; empty: there is no library."""
    shared = _shared()
    if shared is None:
        return ()
    running = tuple(levels())[: shared.sgcore_cpu_best_level() + 1]
    return tuple(level for level in running if hasattr(shared, f"linear_int_{level}"))


def chosen_level() -> str:
    """`OFF`, or the level to use; raises `LaunchError` where the environment asks for what can't be."""
    usable, asked = usable_levels(), os.environ.get(LEVEL)
    if not asked:
        return usable[-1] if usable else OFF
    if asked not in (*usable, OFF):
        raise LaunchError(f"{LEVEL}={asked} isn't possible here", f"one of {', '.join((*usable, OFF))}")
    return asked


def multiplies_bfloat16() -> bool:
    """Whether products in bfloat16 are much faster than those in float32."""
    return not os.environ.get(LEVEL) and usable_levels()[-1:] == ("amx",)


@cache
def open_library(level: str) -> Library | None:
    """The library at a level; None for `OFF`: torch computes everything."""
    return None if level == OFF else Library(level)


def describe() -> str:
    """What computes on this processor."""
    if not usable_levels():
        return "torch only, since sgcore-cpu was installed without a C++ compiler"
    level = chosen_level()
    return f"torch only, by {LEVEL}" if level == OFF else f"native kernels, {level}"
