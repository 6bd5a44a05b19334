"""Decode steps as captured graphs: the host launches one thing where it launched hundreds."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from sgcore.api import Platform

Outputs = TypeVar("Outputs")

SIZES = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, *range(40, 129, 8), *range(144, 513, 16))
"""Rows of a graph; a step with fewer is padded."""


class StepGraphs(Generic[Outputs]):
    """Steps by key. The first step of a key runs as it is, which compiles what it needs; the second is captured."""

    def __init__(self, platform: Platform, most_rows: int, is_enabled: bool) -> None:
        self.platform = platform
        self.sizes = [size for size in SIZES if size < most_rows] + [most_rows] if is_enabled else []
        self._seen: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[Callable[[], None], Outputs]] = {}

    def size(self, rows: int) -> int | None:
        """Rows of the graph for a step of `rows`; None: such a step is not captured."""
        place = bisect_left(self.sizes, rows)
        return self.sizes[place] if rows and place < len(self.sizes) else None

    def run(self, key: Hashable, compute: Callable[[], Outputs]) -> Outputs:
        """The outputs of `compute`, by replay where there is a graph. They stay valid until the key's next run."""
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] == 1:
                return compute()
            self._graphs[key] = self._capture(compute)
        replay, outputs = self._graphs[key]
        replay()
        return outputs

    def _capture(self, compute: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        made: list[Any] = []
        replay = self.platform.capture(lambda: made.append(compute()))
        return replay, made[0]
