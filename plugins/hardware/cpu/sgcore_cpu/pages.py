"""Weights in huge pages: with small ones the processor waits for addresses where memory could give more."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

HUGE_PAGE = 2 << 20
ALIGNMENT = 64
"""Bytes: the widest vector."""


def move_to_huge_pages(tensors: Iterable[Tensor]) -> None:
    """Let the tensors' data lie one behind another in memory that the kernel is asked to back with huge pages.

    Those of less than a page in all stay where they are, and so do layouts with gaps.
    """
    movable = [tensor for tensor in tensors if tensor.layout == torch.strided and _is_dense(tensor)]
    ends = list(accumulate((_aligned(tensor.nbytes) for tensor in movable), initial=0))
    memory = _huge_pages(ends[-1])
    if memory is None:
        return

    def move(tensor: Tensor, begin: int) -> None:
        place = memory[begin : begin + tensor.nbytes].view(tensor.dtype).as_strided(tensor.shape, tensor.stride())
        tensor.data = place.copy_(tensor.data)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # the kernel zeroes a page for whoever touches it first
        list(pool.map(move, movable, ends[:-1]))


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill what they span, in any order of dimensions."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.numel() > 0 and span == tensor.numel()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _huge_pages(size: int) -> Tensor | None:
    """Bytes at the beginning of a huge page."""
    if size < HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    mapped = mmap.mmap(-1, size + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        mapped.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return None
    memory = torch.from_numpy(np.frombuffer(mapped, np.uint8))
    skipped = -memory.data_ptr() % HUGE_PAGE
    return memory[skipped : skipped + size]
