"""The level `amx` for processors that have no tiles: compiled once, with tiles in plain C++."""

from __future__ import annotations

from ctypes import CDLL

import pytest

from sgcore_cpu import library
from sgcore_cpu.native import build


@pytest.fixture(scope="session")
def below() -> str:
    """The best level without tiles."""
    if "avx512" not in library.usable_levels():
        pytest.skip("tiles need AVX-512 beside them")
    return [level for level in library.usable_levels() if level != "amx"][-1]


@pytest.fixture(scope="session")
def emulated(below: str, tmp_path_factory: pytest.TempPathFactory) -> CDLL:
    made = tmp_path_factory.mktemp("tiles") / "emulated.so"
    build.build(made, {"amx": (*build.X86[below], "-DSGCORE_EMULATED_TILES")})
    return CDLL(str(made))
