"""The scheduler's side of the cache: what a request finds in it, what it leaves there, and who computes what first."""

from __future__ import annotations

import numpy as np

from sgcore.cache.pages import PageAllocator
from sgcore.cache.radix import Match, RadixTree
from sgcore.scheduler.sequence import Sequence

PageChange = tuple[int, int, list[int]]
"""A row, the place in its page table from which on pages are new, and these."""


class Prefixes:
    """Pages, the tree of cached prefixes over them, and prefixes that a running row is about to compute."""

    def __init__(self, pages: int, page_tokens: int, uses_cache: bool) -> None:
        self.pages = PageAllocator(pages)
        self.tree = RadixTree(self.pages, page_tokens)
        self._page_tokens, self._uses_cache = page_tokens, uses_cache
        self._in_flight: dict[tuple[int, bytes], Sequence] = {}
        self._moved: list[PageChange] = []

    def match(self, sequence: Sequence) -> Match:
        """What is cached of a request; at least one token is left to compute, and all whose logprobs are asked for."""
        request = sequence.request
        most = len(sequence.tokens) - 1
        if request.logprob_start >= 0:
            most = min(most, max(request.logprob_start - 1, 0))
        return self.tree.match(sequence.tokens, request.namespace, most if self._uses_cache else 0)

    def allocate(self, count: int) -> list[int] | None:
        """Pages from the free list, evicting cached prefixes for them; None if there are too few."""
        if count > self.pages.free:
            self.tree.evict(count - self.pages.free)
        return self.pages.allocate(count)

    @property
    def available(self) -> int:
        """Pages that `allocate` can give."""
        return self.pages.free + self.tree.evictable_pages

    # -- who computes what ---------------------------------------------------------------------------------------

    def next_of(self, sequence: Sequence, match: Match) -> tuple[int, bytes] | None:
        """What a request would compute first. Who wants the same waits a few steps and finds it in the tree."""
        ahead = sequence.tokens[match.tokens : match.tokens + self._page_tokens]
        if len(ahead) < self._page_tokens or not self._uses_cache:
            return None
        return id(match.node), np.asarray(ahead, np.int32).tobytes() + sequence.request.namespace.encode()

    def is_in_flight(self, prefix: tuple[int, bytes] | None) -> bool:
        """Whether a running row computes it already."""
        return prefix in self._in_flight

    def claim(self, prefix: tuple[int, bytes] | None, sequence: Sequence) -> None:
        """A row computes this next; others that want it wait."""
        if prefix is not None and prefix not in self._in_flight:
            self._in_flight[prefix], sequence.in_flight = sequence, prefix

    def unclaim(self, sequence: Sequence) -> None:
        if sequence.in_flight is not None:
            self._in_flight.pop(sequence.in_flight, None)
            sequence.in_flight = None

    # -- what a row leaves ---------------------------------------------------------------------------------------

    def share(self, sequence: Sequence) -> None:
        """Put what a chunk of a prompt computed into the tree, for others to use at once."""
        if not self._uses_cache:
            return
        self._insert(sequence)
        self.unclaim(sequence)
        if sequence.confirmed < sequence.target and sequence.node is not None:
            done = sequence.tree_pages * self._page_tokens
            self.claim(self.next_of(sequence, Match(sequence.node, [], done, None, 0)), sequence)

    def release(self, sequence: Sequence) -> None:
        """A row is given up: what it computed stays in the tree, the rest of its pages are free."""
        if self._uses_cache:
            self._insert(sequence)
        self.unclaim(sequence)
        self.pages.release(sequence.pages[sequence.tree_pages :])
        if sequence.node is not None:
            self.tree.unlock(sequence.node)
        self._moved = [change for change in self._moved if change[0] != sequence.row]
        sequence.node, sequence.pages, sequence.tree_pages = None, [], 0

    def take_moved(self) -> list[PageChange]:
        """Rows whose pages were exchanged for the tree's own since the last call."""
        moved, self._moved = self._moved, []
        return moved

    def put_back(self, moved: list[PageChange]) -> None:
        """What nobody took after all."""
        self._moved = moved

    def _insert(self, sequence: Sequence) -> None:
        """Insert the computed whole pages and hold the new end of the path instead of the old one."""
        whole = sequence.confirmed // self._page_tokens
        if whole <= sequence.tree_pages or sequence.node is None:
            return
        tokens = sequence.tokens[: whole * self._page_tokens]
        node, _ = self.tree.insert(tokens, sequence.pages[:whole], sequence.request.namespace)
        self.tree.lock(node)
        self.tree.unlock(sequence.node)
        path = self.tree.path_pages(node)
        if path != sequence.pages[:whole] and not sequence.is_ended:
            self._moved.append((sequence.row, 0, path))
        sequence.node, sequence.tree_pages = node, whole
        sequence.pages[:whole] = path
