"""An embedding's table that stays mapped from its file: of each row that is read, the kernel maps 64 KB."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from torch import Tensor

from sgcore.memory import release

PAGE_MAP = Path("/proc/self/pagemap")
ENTRY = np.dtype(np.uint64)
"""Of a page; the bits are those of proc(5)."""
PRESENT, SWAPPED, OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))
PAGES = 4096
"""Looked at together; a table that isn't a file's shows it in the first of them."""


def unmap(table: Tensor) -> None:
    """Give a table's pages back to the page cache, if all of them are as they are in a file."""
    first = -(-table.data_ptr() // mmap.PAGESIZE)
    end = (table.data_ptr() + table.nbytes) // mmap.PAGESIZE
    if first < end and all(_are_of_file(at, min(PAGES, end - at)) for at in range(first, end, PAGES)):
        release(first * mmap.PAGESIZE, end * mmap.PAGESIZE)


def _are_of_file(first: int, count: int) -> bool:
    try:
        entries = np.fromfile(PAGE_MAP, ENTRY, count, offset=first * ENTRY.itemsize)
    except OSError:  # another system, or a sandbox without it
        return False
    own = (entries & SWAPPED) | ((entries & (PRESENT | OF_FILE)) == PRESENT)
    return len(entries) == count and not own.any()
