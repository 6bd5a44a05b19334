"""Weights in huge pages: with small ones the processor waits for addresses where memory could give more."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def page_size(file: Path = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")) -> int:
    """Bytes of a huge page: 2 MB with small ones of 4 KB, on ARM also 32 MB with 16 KB and 512 MB with 64 KB."""
    return int(file.read_text()) if file.exists() else 2 << 20


HUGE_PAGE = page_size()
ALIGNMENT = 64
"""Bytes: the widest vector."""
SLICE_BYTES = 32 << 20
"""Moved at a time."""


class Moving:
    """Lets tensors' data lie one behind another in memory that the kernel is asked to back with huge pages.

    Those of less than a page in all stay where they are, and so do layouts with gaps. Where a page exceeds a slice,
    all stay: the kernel would fill it at once, and what weights leave of it would be lost.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        movable = [tensor for tensor in tensors if tensor.layout == torch.strided and _is_dense(tensor)]
        memory = _huge_pages(sum(_aligned(tensor.nbytes) for tensor in movable))
        self._slices = iter([]) if memory is None else _slices(movable, memory)

    def some(self) -> bool:
        """Move a few tensors; False: there were none left."""
        pairs = next(self._slices, None)
        if pairs is None:
            return False
        # Most of the time goes into zeroing pages, which the kernel does for whoever touches them first.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(_move, pairs))
        return True


def move_to_huge_pages(tensors: Iterable[Tensor]) -> None:
    """Move all of them at once."""
    moving = Moving(tensors)
    while moving.some():
        pass


Pair = tuple[Tensor, Tensor]
"""A tensor and where its data shall lie."""


def _slices(tensors: list[Tensor], memory: Tensor) -> Iterator[list[Pair]]:
    begin, slice_end = 0, SLICE_BYTES
    found: list[Pair] = []
    for tensor in tensors:
        place = memory[begin : begin + tensor.nbytes].view(tensor.dtype).as_strided(tensor.shape, tensor.stride())
        found.append((tensor, place))
        begin += _aligned(tensor.nbytes)
        if begin >= slice_end:
            yield found
            found, slice_end = [], begin + SLICE_BYTES
    if found:
        yield found


def _move(pair: Pair) -> None:
    tensor, place = pair
    tensor.data = place.copy_(tensor.data)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill what they span, in any order of dimensions."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.numel() > 0 and span == tensor.numel()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _huge_pages(size: int) -> Tensor | None:
    """Bytes at the beginning of a huge page."""
    if size < HUGE_PAGE or HUGE_PAGE > SLICE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    mapped = mmap.mmap(-1, size + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        mapped.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return None
    memory = torch.from_numpy(np.frombuffer(mapped, np.uint8))
    skipped = -memory.data_ptr() % HUGE_PAGE
    return memory[skipped : skipped + size]
