"""What a process takes of the machine's memory and has no more use for, given back to the system. Linux only."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

AREAS = Path("/proc/self/smaps")
AREA = re.compile(r"^(\w+)-(\w+) (\S+) \S+ \S+ \S+ +(/.*)\n(?:[A-Z].*\n)*?Anonymous: +(\d+) kB", re.MULTILINE)
RTLD_DI_LINKMAP = 2
"""What dlinfo(3) is asked for."""


class Area(NamedTuple):
    """Neighbouring pages that are mapped from a file."""

    begin: int
    end: int
    is_writable: bool
    path: str
    is_written: bool
    """Some pages are not as in the file any more, such as those that the loader puts addresses into."""


class LinkMap(ctypes.Structure):
    """A library in the loader's list, which has it once all of it is mapped."""

    _fields_: ClassVar[Any] = [
        ("base", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("dynamic", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
    ]


def give_back() -> None:
    """Return what a start leaves: freed memory (reading a tokenizer leaves 30 MB), and code that was run once."""
    return_freed()
    release_libraries()


def return_freed() -> None:
    """Return memory that the C library keeps though it is free."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def release_libraries() -> None:
    """Unmap libraries' pages that are as in their files; the page cache has them, and using one maps it again.

    A start reads most of torch's and Python's; what computes afterwards is little of it.
    """
    bases = set(library_bases())
    found = list(file_areas())
    libraries = {area.path for area in found if area.begin in bases}
    for area in found:
        if area.path in libraries and not area.is_writable and not area.is_written:
            release(area.begin, area.end)


def release(begin: int, end: int) -> None:
    """Unmap whole pages of a file that nobody has written to: what was written would be lost."""
    size = ctypes.c_size_t(end - begin)
    ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), size, mmap.MADV_DONTNEED)  # fails on locked pages: they stay


def library_bases() -> Iterator[int]:
    """Where the loader has put libraries; one that another thread is loading now isn't among them yet."""
    own = ctypes.CDLL(None)
    here = ctypes.c_void_p()
    if sys.platform != "linux" or own.dlinfo(ctypes.c_void_p(own._handle), RTLD_DI_LINKMAP, ctypes.byref(here)):
        return
    while here.value:
        library = LinkMap.from_address(here.value)
        yield library.base
        here.value = library.next


def file_areas() -> Iterator[Area]:
    """Of this process, in the order of their addresses."""
    if AREAS.exists():
        for begin, end, mode, path, written_kb in AREA.findall(AREAS.read_text(errors="surrogateescape")):
            yield Area(int(begin, 16), int(end, 16), mode[1] == "w", path, written_kb != "0")
