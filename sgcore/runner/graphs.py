"""Steps as captured graphs: the host launches one thing where it launched hundreds."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from sgcore.api import Platform
from sgcore.runner.batch import StaticSize
from sgcore.scheduler.step import StepPlan

Outputs = TypeVar("Outputs")

DECODE_ROWS = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, *range(40, 129, 8), *range(144, 513, 16))
"""Rows of a graph that only decodes; a step with fewer is padded."""
MIXED_GRAIN = 32
"""Beside chunks decode rows are padded more coarsely: there are fewer graphs, and a row is little of such a step."""
CHUNK_GRAINS = ((256, 64), (1024, 128), (2048, 256), (4096, 512))
"""Up to so many tokens of chunks, multiples of so many; above, of 1,024."""
TOKENS_A_CHUNK = 32
"""Room for a chunk in so many tokens."""
LEAST_CHUNKS = 16
MOST_GRAPHS = 256


class StepGraphs(Generic[Outputs]):
    """Steps by key. The first step of a key runs as it is, which compiles what it needs; the second is captured."""

    def __init__(self, platform: Platform, most_rows: int, most_tokens: int) -> None:
        """Steps of up to `most_tokens` tokens are captured; 0: none."""
        self.platform = platform
        self.most_tokens = most_tokens
        self.most_rows = most_rows
        self._decode_rows = [size for size in DECODE_ROWS if size < most_rows] + [most_rows]
        self._seen: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[Callable[[], None], Outputs]] = {}

    def size(self, step: StepPlan) -> StaticSize | None:
        """The graph's size for a step; None: such a step is not captured."""
        if step.tokens > self.most_tokens:
            return None
        if not step.chunks:
            return StaticSize(self._decode_rows[bisect_left(self._decode_rows, len(step.decode))], 0, 0)
        tokens = step.tokens - len(step.decode)
        grain = next((grain for most, grain in CHUNK_GRAINS if tokens <= most), 1024)
        tokens = _rounded(tokens, grain)
        chunk_rows = max(LEAST_CHUNKS, tokens // TOKENS_A_CHUNK)
        if len(step.chunks) > chunk_rows:
            return None
        return StaticSize(min(_rounded(len(step.decode), MIXED_GRAIN), self.most_rows), tokens, chunk_rows)

    def run(self, key: Hashable, compute: Callable[[], Outputs]) -> Outputs:
        """The outputs of `compute`, by replay where there is a graph. They stay valid until the key's next run."""
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] == 1 or len(self._graphs) >= MOST_GRAPHS:
                return compute()
            self._graphs[key] = self._capture(compute)
        replay, outputs = self._graphs[key]
        replay()
        return outputs

    def _capture(self, compute: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        made: list[Any] = []
        replay = self.platform.capture(lambda: made.append(compute()))
        return replay, made[0]


def _rounded(value: int, grain: int) -> int:
    return -(-value // grain) * grain
