"""Prefixes that stay cached until they are released, because requests that begin with them are announced."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sgcore.cache.radix import Node, RadixTree

MAX_PINS = 1024
POOL_SHARE = 0.5
"""Of the pool's pages, the most that pins may hold; a page counts once for each pin over it."""
LIFETIME_S = 300.0
"""After which a pin ends by itself: its owner may have gone."""


@dataclass(frozen=True)
class _Pin:
    node: Node
    pages: int
    deadline: float


class Pins:
    """Locks on paths of the radix tree, by the group of requests that they are for.

    Bounded in number, pages and time. A pin that would pass a bound is not made: requests then only miss the cache.
    """

    def __init__(self, tree: RadixTree, pool_pages: int) -> None:
        self._tree = tree
        self._most_pages = int(pool_pages * POOL_SHARE)
        self._pins: dict[str, _Pin] = {}  # in the order of their deadlines
        self.pages = 0

    def __len__(self) -> int:
        return len(self._pins)

    def add(self, group: str, tokens: Sequence[int], namespace: str = "") -> bool:
        """Keep what is cached of `tokens` until `remove(group)`; whether there was something, and room for it."""
        self.remove(group)
        match = self._tree.match(tokens, namespace)
        count = len(match.pages)
        if not count or len(self._pins) >= MAX_PINS or self.pages + count > self._most_pages:
            return False
        self._tree.lock(match.node)
        self._pins[group] = _Pin(match.node, count, time.monotonic() + LIFETIME_S)
        self.pages += count
        return True

    def remove(self, group: str) -> None:
        """Let go of a group's prefix; an unknown group has ended already."""
        pin = self._pins.pop(group, None)
        if pin is not None:
            self.pages -= pin.pages
            self._tree.unlock(pin.node)

    def expire(self, now: float) -> None:
        """Let go of what has been pinned for too long."""
        while self._pins:
            group, pin = next(iter(self._pins.items()))
            if pin.deadline > now:
                return
            self.remove(group)

    def clear(self) -> bool:
        """Let go of everything; whether there was something."""
        had_any = bool(self._pins)
        for group in list(self._pins):
            self.remove(group)
        return had_any
