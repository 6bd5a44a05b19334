"""Steps as captured graphs: the host launches one thing where it launched hundreds."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from sgcore.api import Platform
from sgcore.runner.batch import StaticSize
from sgcore.scheduler.step import StepPlan

log = logging.getLogger(__name__)

Outputs = TypeVar("Outputs")

DECODE_ROWS = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, *range(40, 129, 8), *range(144, 513, 16))
"""Rows of a graph that only decodes; a step with fewer is padded."""
MIXED_ROWS = 32
"""Beside chunks decode rows are padded to multiples of this: a row is little of such a step, and graphs are fewer."""
MIXED_TOKENS = (*range(32, 257, 32), 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Tokens of a graph with chunks; beyond, multiples of 1,024."""
TOKENS_A_CHUNK = 32
"""Room for a chunk in so many tokens."""
LEAST_CHUNKS = 16
MOST_GRAPHS = 256


class StepGraphs(Generic[Outputs]):
    """Steps by key. The first step of a key runs as it is, which compiles what it needs; the second is captured."""

    def __init__(self, platform: Platform, most_rows: int, most_tokens: int, mixed_tokens: int | None = 0) -> None:
        """Steps of up to `most_tokens` tokens are captured; 0: none. `mixed_tokens`: usual size with chunks; None:
        these are not captured, and the others when they come."""
        self.platform = platform
        self.most_tokens = most_tokens
        self.most_rows = most_rows
        self._decode_rows = [size for size in DECODE_ROWS if size < most_rows] + [most_rows]
        self._takes_chunks = mixed_tokens is not None
        self._awaited = self._common_sizes(mixed_tokens) if most_tokens and mixed_tokens is not None else []
        self._seen: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[Callable[[], None], Outputs]] = {}
        self._said: set[str] = set()

    def size(self, step: StepPlan) -> StaticSize | None:
        """The graph's size for a step; None: such a step is not captured."""
        if step.tokens > self.most_tokens:
            return None
        if not step.chunks:
            return StaticSize(self._decode_rows[bisect_left(self._decode_rows, len(step.decode))], 0, 0)
        if not self._takes_chunks:
            return None
        return self._mixed_size(len(step.decode), step.tokens - len(step.decode), len(step.chunks))

    def _mixed_size(self, decode_rows: int, tokens: int, chunks: int) -> StaticSize | None:
        rows = min(_rounded(decode_rows, MIXED_ROWS), self.most_rows)
        total = next((size for size in MIXED_TOKENS if size >= rows + tokens), _rounded(rows + tokens, 1024))
        chunk_rows = max(LEAST_CHUNKS, total // TOKENS_A_CHUNK)
        return StaticSize(rows, total - rows, chunk_rows) if chunks <= chunk_rows else None

    def _common_sizes(self, mixed_tokens: int) -> list[tuple[StaticSize, bool]]:
        """What will be asked for, the last first: most rows before few, and decode steps that draw at the end."""
        decode = [StaticSize(rows, 0, 0) for rows in self._decode_rows]
        rows = range(MIXED_ROWS, self.most_rows + 1, MIXED_ROWS) if mixed_tokens else ()
        mixed = [self._mixed_size(count, max(mixed_tokens - count, mixed_tokens // 2), 1) for count in rows]
        fitting = [size for size in mixed if size is not None and size.tokens <= self.most_tokens]
        return [(size, True) for size in decode] + [(size, False) for size in fitting + decode]

    def next_awaited(self) -> tuple[StaticSize, bool] | None:
        """A size that will be asked for, and whether its rows draw; each once."""
        return self._awaited.pop() if self._awaited else None

    def run(self, key: Hashable, compute: Callable[[], Outputs]) -> Outputs:
        """The outputs of `compute`, by replay where there is a graph. They stay valid until the key's next run."""
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] != 2 or len(self._graphs) >= MOST_GRAPHS:
                return compute()
            try:
                self._graphs[key] = self._capture(compute)
            except RuntimeError as error:  # no memory, or an operation that can't be captured: steps stay as they are
                self._say(str(error) or type(error).__name__)
                return compute()
        replay, outputs = self._graphs[key]
        replay()
        return outputs

    def _say(self, reason: str) -> None:
        """Once for all steps with the same reason."""
        if reason not in self._said:
            self._said.add(reason)
            log.warning("steps run uncaptured, which is slower: %s", reason.splitlines()[0])

    def _capture(self, compute: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        made: list[Any] = []
        replay = self.platform.capture(lambda: made.append(compute()))
        return replay, made[0]


def _rounded(value: int, grain: int) -> int:
    return -(-value // grain) * grain
