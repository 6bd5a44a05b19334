"""Who owns which page of the device pool: the free list."""

from __future__ import annotations

import logging
from collections.abc import Iterable

logger = logging.getLogger(__name__)


class PageAllocator:
    """Hands out page ids of a pool of `pages` pages.

    Ids run from 1 to `pages - 1`; page 0 is never handed out: padding may write to it. A freed page is the next to be
    handed out again, which keeps the pages in use close together.
    """

    def __init__(self, pages: int) -> None:
        if pages < 1:
            raise ValueError(f"a pool needs at least its scratch page, got {pages} pages")
        self.total = pages - 1
        self.violations = 0
        self._stack = list(range(pages - 1, 0, -1))
        self._is_free = bytearray(b"\0" + b"\1" * self.total)

    @property
    def free(self) -> int:
        """How many pages `allocate` could give now."""
        return len(self._stack)

    def is_free(self, page: int) -> bool:
        """Whether `page` is in the free list."""
        return 0 < page <= self.total and bool(self._is_free[page])

    def allocate(self, n: int) -> list[int] | None:
        """Take `n` pages, or None (and take nothing) if fewer are free. O(n). Raises ValueError for n < 0."""
        if n < 0:
            raise ValueError(f"cannot allocate {n} pages")
        left = len(self._stack) - n
        if left < 0:
            return None
        taken = self._stack[left:]
        del self._stack[left:]
        taken.reverse()
        for page in taken:
            self._is_free[page] = 0
        return taken

    def release(self, pages: Iterable[int]) -> None:
        """Give pages back. One that is free already, or isn't of this pool, is logged, counted and left alone."""
        for page in pages:
            if not 0 < page <= self.total or self._is_free[page]:
                self.violations += 1
                logger.error("page %d was released but is not in use (pool of %d)", page, self.total)
                continue
            self._is_free[page] = 1
            self._stack.append(int(page))
