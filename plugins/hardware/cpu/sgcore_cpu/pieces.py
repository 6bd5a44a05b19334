"""Which keys a step's queries read together: the lists for the native attention, in numpy, once a step.

Pieces meet at multiples of `SPLIT` keys. The native function makes a result of each split, and puts these together in
the order of keys, so that a query's result doesn't depend on the pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sgcore.runner.batch import ForwardBatch
from sgcore_cpu.attention import common_pages, prefix_of

Array = np.ndarray[Any, Any]

MOST_QUERIES = 64
"""Queries of a piece, times the query heads of a kv head."""
SPLIT = 256
"""Keys, as in native/attention.h. Longer ones would leave shorter prefixes unshared; each split costs a result."""
SHORTEST_PIECE = 512
"""Keys: rows are cut into no shorter pieces to keep all threads busy."""
UNITS = 4
"""Pieces that each thread should find, where rows are long enough."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What pieces depend on beside the batch."""

    heads: int
    kv_heads: int
    page_tokens: int
    window: int | None
    threads: int

    @property
    def most_tokens(self) -> int:
        return max(1, MOST_QUERIES * self.kv_heads // self.heads)


@dataclass(slots=True)
class Pieces:
    """In the order and the types that the native function reads."""

    pieces: Array
    """(pieces, 6) int64: row of the page table, first query, queries, first key, end of keys, first slot or -1.

    A piece has a slot for each query of its first split, then for each of the next one.
    """
    tokens: Array
    """(queries,) int64: place of each query in the batch."""
    limits: Array
    """(queries,) int64: keys of its row that each query may see."""
    slots: int
    """Partial results."""
    merged: Array
    """(merged,) int64: tokens whose result is put together of partial ones."""
    begins: Array
    """(merged + 1,) int64: where each of them begins in `parts`."""
    parts: Array
    """Slots, int64, in the order of keys."""


class _Builder:
    """Collects pieces; those of the rows that decode may have several results to be merged."""

    def __init__(self, batch: ForwardBatch, shape: Shape) -> None:
        self.batch, self.shape = batch, shape
        self.pieces: list[tuple[int, int, int, int, int, int]] = []
        self.slots = 0
        self.parts: dict[int, list[int]] = {}
        decoding = batch.decode_rows
        self.tokens = [batch.starts[:decoding]]
        self.limits = [batch.lengths[:decoding]]
        self.queries = decoding
        self.seen = self._first_seen(batch.lengths[:decoding])

    def _first_seen(self, limits: Array) -> Array:
        return np.zeros_like(limits) if self.shape.window is None else np.maximum(limits - self.shape.window, 0)

    def add_queries(self, tokens: Array, limits: Array) -> int:
        """The place of the first of them."""
        first = self.queries
        self.tokens.append(tokens)
        self.limits.append(limits)
        self.queries += len(tokens)
        return first

    def add_chunks(self) -> None:
        batch, most = self.batch, self.shape.most_tokens
        for row in range(batch.decode_rows, len(batch.lengths)):
            begin, count, length = int(batch.starts[row]), int(batch.counts[row]), int(batch.lengths[row])
            limits = np.arange(length - count, length) + 1
            first, seen = self.add_queries(np.arange(begin, begin + count), limits), self._first_seen(limits)
            for at in reversed(range(0, count, most)):
                last = min(at + most, count)
                self.pieces.append((row, first + at, last - at, int(seen[at]), int(limits[last - 1]), -1))

    def add_prefixes(self) -> None:
        """Rows that decode and have their first pages in common attend to these together."""
        batch, page_tokens = self.batch, self.shape.page_tokens
        lengths = batch.lengths[: batch.decode_rows]
        pages = -(-lengths // page_tokens)
        prefix = prefix_of(batch.page_table[: batch.decode_rows], pages, -(-SPLIT // page_tokens))
        for page in np.unique(prefix[prefix > 0]):
            rows = np.flatnonzero(prefix == page)
            shared = common_pages(batch.page_table[rows], pages[rows]) * page_tokens // SPLIT * SPLIT
            if not shared:
                continue
            first = self.add_queries(batch.starts[rows], lengths[rows])
            for at in range(0, len(rows), self.shape.most_tokens):
                members = rows[at : at + self.shape.most_tokens]
                self.pieces.append((int(rows[0]), first + at, len(members), 0, shared, self.slots))
                self._give_slots(members.tolist(), shared // SPLIT)
            self.seen[rows] = shared

    def _give_slots(self, rows: list[int], splits: int) -> None:
        for row in rows * splits:
            self.parts.setdefault(row, []).append(self.slots)
            self.slots += 1

    def add_rows(self) -> None:
        lengths = self.batch.lengths[: self.batch.decode_rows]
        own = lengths - self.seen
        shape = self.shape
        longest = max(SHORTEST_PIECE, int(own.sum()) * shape.kv_heads // (UNITS * shape.threads))
        counts = -(-own // longest)
        for row in np.argsort(-own).tolist():
            begin, end, count = int(self.seen[row]), int(lengths[row]), int(counts[row])
            aligned = begin // SPLIT * SPLIT
            size = -(-(end - aligned) // (count * SPLIT)) * SPLIT
            is_whole = count == 1 and row not in self.parts
            for at in range(aligned, end, size):
                first, last = max(at, begin), min(at + size, end)
                self.pieces.append((row, row, 1, first, last, -1 if is_whole else self.slots))
                if not is_whole:
                    self._give_slots([row], -(-last // SPLIT) - first // SPLIT)

    def pieces_and_merges(self) -> Pieces:
        rows = list(self.parts)
        counts = [len(self.parts[row]) for row in rows]
        return Pieces(
            np.array(self.pieces, np.int64).reshape(-1, 6),
            np.concatenate(self.tokens).astype(np.int64),
            np.concatenate(self.limits).astype(np.int64),
            self.slots,
            self.batch.starts[rows].astype(np.int64) if rows else np.empty(0, np.int64),
            np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            np.array([slot for row in rows for slot in self.parts[row]], np.int64),
        )


def pieces_of(batch: ForwardBatch, shape: Shape) -> Pieces:
    """Chunks first, since they take longest, then prefixes, then rows, long ones first."""
    builder = _Builder(batch, shape)
    builder.add_chunks()
    if shape.window is None and batch.decode_rows > 1:
        builder.add_prefixes()
    if batch.decode_rows:
        builder.add_rows()
    return builder.pieces_and_merges()
