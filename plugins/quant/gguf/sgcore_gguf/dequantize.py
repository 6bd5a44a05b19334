"""A tensor of the file as a numpy array, dequantised a block of rows at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from sgcore.errors import LaunchError
from sgcore_gguf.header import TensorInfo

CHUNK_ELEMENTS = 1 << 18
"""What one thread dequantises at a time; numpy's temporaries take about 20 bytes an element."""
THREADS = min(8, os.cpu_count() or 1)
PLAIN: dict[GGMLQuantizationType, type[np.generic]] = {
    GGMLQuantizationType.F32: np.float32,
    GGMLQuantizationType.F16: np.float16,
    GGMLQuantizationType.BF16: np.uint16,
}
"""Types that are read as they are; numpy has no bfloat16."""


def check_type(path: Path, info: TensorInfo) -> None:
    """Raises `LaunchError` for a type that can't be read."""
    if info.kind not in PLAIN and info.kind not in quants._type_traits:
        raise LaunchError(
            f"{path}: tensor {info.name} has type {info.kind.name}, which can't be dequantised",
            "use a file in one of the types Q4_0 to Q8_0, Q2_K to Q6_K, F16, BF16 or F32",
        )


def raw_bytes(path: Path, info: TensorInfo) -> NDArray[Any]:
    """The tensor's part of the file. Copy-on-write: torch wants writable memory, and the file stays as it is."""
    return np.memmap(path, mode="c", offset=info.offset, shape=(info.size_bytes,), dtype=np.uint8).view(np.ndarray)


def read_array(path: Path, info: TensorInfo) -> NDArray[Any]:
    """float32, or the type of an unquantised tensor; rows as in the file. Memory: the result and a few chunks."""
    raw = raw_bytes(path, info)
    if info.kind in PLAIN:
        return raw.view(PLAIN[info.kind]).reshape(info.shape)
    rows = raw.reshape(prod(info.shape[:-1]), -1)
    result = np.empty((len(rows), info.shape[-1]), dtype=np.float32)

    def fill(chunk: slice) -> None:
        _dequantize(rows[chunk], info.kind, result[chunk])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, _chunks(len(rows), info.shape[-1])))
    return result.reshape(info.shape)


def _dequantize(rows: NDArray[Any], kind: GGMLQuantizationType, into: NDArray[np.float32]) -> None:
    """As the gguf package, but Q8_0, which most embeddings are, without its copies."""
    if kind != GGMLQuantizationType.Q8_0:
        into[:] = quants.dequantize(rows, kind)
        return
    blocks = rows.reshape(len(rows), -1, 34)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16).astype(np.float32)
    np.multiply(blocks[..., 2:].view(np.int8), scales, out=into.reshape(*blocks.shape[:2], 32))


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, CHUNK_ELEMENTS // columns)
    for start in range(0, rows, step):
        yield slice(start, start + step)
