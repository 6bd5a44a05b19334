"""Which program attends to what: the lists that the host writes for a step's kernels.

All of it is numpy on arrays of a batch's rows; the lists reach the device with the step's other arrays. A list that a
captured graph reads has a capacity that depends on the graph's rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]

GRAIN_TOKENS = 64
"""Work is cut at multiples of this: a kernel's step over keys."""
FULL_CHUNK_TOKENS = 512
"""Chunks of this length run at full speed: cutting further balances the load no better."""
WAVES = 3
"""Most units of work for each resident program, beyond one a row: a ragged end costs a part of one unit."""
TILE_TOKENS = 128
"""Tokens of a chunk in one item."""
SHARED_PAGES = 16
"""The shortest prefix, in pages, that rows attend to together."""
SHARED_GAIN = 8
"""Prefixes are shared when that saves at least one key in so many."""
SHARED_ROWS = 32
"""Rows of a group in one item."""
SHARED_CHUNK_TOKENS = 256
SHARED_PARTS = 2
"""Most pieces of one shared prefix: each costs a partial result for every row of the group."""
LEVELS = 2
"""A prefix of everybody (a system prompt) and one of some (a conversation's start)."""

ITEM_FIELDS = 12
"""Of an item for one row: place in the device's page table, first key, end of keys, row, token, length, number of the
piece, pieces of the row, slot of the row's first piece, slot of its first shared result, shared results that this piece
adds, nothing. Slots are places of partial results; a row with one piece has none for it."""
SHARED_FIELDS = 6
"""Of an item for a group: place in the page table, first key, end of keys, first member, members, number of piece."""
MEMBER_FIELDS = 3
"""Of a group's member: token, length, slot of the row's first shared result."""


@dataclass(slots=True)
class Groups:
    """Rows that have leading pages in common; a group's members stand at [first, first + count) of `members`."""

    members: Ints
    """Batch rows."""
    first: Ints
    count: Ints
    begin: Ints
    """First page of the prefix that the group attends to."""
    end: Ints
    starts: Ints
    """(rows,) pages of each row that some group attends to."""
    level: Ints
    work: tuple[Ints, Ints] | None = None
    """Items of the groups and the pieces (rows,) of each row: the same as long as the groups are."""

    def saved_pages(self) -> int:
        """Pages that need not be read again."""
        return int(((self.count - 1) * (self.end - self.begin)).sum())


@dataclass(slots=True)
class DecodeWork:
    """Items, int32, the longest first; a shared prefix's results are complete when the rows' own items start."""

    own: Ints
    """(items, ITEM_FIELDS)."""
    partials: int
    """Slots in use."""
    shared: Ints | None = None
    """(items, SHARED_FIELDS)."""
    members: Ints | None = None
    """(members, MEMBER_FIELDS)."""


def find_groups(table: Ints, pages: Ints) -> Groups:
    """Groups among rows by their page table (rows, width) and the pages (rows,) that may be shared.

    The same page at the same place means that all earlier tokens are the same, so one comparison decides about a whole
    prefix and its end is found by bisection.
    """
    rows = np.arange(len(pages))
    starts = np.zeros(len(pages), np.int64)
    alive = np.ones(len(pages), bool)
    found: list[tuple[Ints, Ints, Ints, Ints, Ints]] = []
    for _ in range(LEVELS):
        place = starts + SHARED_PAGES - 1
        candidates = rows[alive & (place < pages)]
        key = table[candidates, place[candidates]]
        order = np.argsort(key, kind="stable")
        candidates, key = candidates[order], key[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        count = np.diff(first, append=len(key))
        kept = np.repeat(count > 1, count)
        alive[:] = False
        if not kept.any():
            break
        members, count = candidates[kept], count[count > 1]
        first = np.cumsum(count) - count
        common = np.minimum.reduceat(_common(table, pages, members, np.repeat(members[first], count), starts), first)
        found.append((members, count, starts[members[first]], common, np.full(len(count), len(found))))
        starts[members], alive[members] = np.repeat(common, count), True
    if not found:
        empty = np.zeros(0, np.int64)
        return Groups(empty, empty, empty, empty, empty, starts, empty)
    members, count, begin, end, level = (np.concatenate(x) for x in zip(*found, strict=True))
    return Groups(members, np.cumsum(count) - count, count, begin, end, starts, level)


class GroupCache:
    """Finds a batch's groups, again only when its rows change or no longer share what they did."""

    def __init__(self, page_tokens: int) -> None:
        self._page_tokens = page_tokens
        self._key: tuple[bytes, ...] = ()
        self._places: Ints = np.zeros(0, np.int64)
        self._groups: Groups | None = None

    def find(self, table: Ints, lengths: Ints, places: Ints) -> Groups | None:
        """Groups among rows of `lengths` (rows,) at `places` (rows,), if they save enough: table (rows, width)."""
        pages = (lengths - 1) // self._page_tokens
        if len(pages) < 2 or int(pages.max()) < SHARED_PAGES:
            return None
        if self._key != (places.tobytes(), *self._signs(table, pages)):
            groups = find_groups(table, pages)
            self._places = np.maximum(groups.starts, SHARED_PAGES) - 1
            self._groups = groups if groups.saved_pages() * SHARED_GAIN >= int(pages.sum()) else None
            self._key = (places.tobytes(), *self._signs(table, pages))
        return self._groups

    def _signs(self, table: Ints, pages: Ints) -> tuple[bytes, ...]:
        """The pages that tell whether the groups hold: each row's where sharing starts and where its prefix ends.

        A page that rows have in common says that they share all tokens before it, so no other page has to be compared.
        """
        if len(self._places) != len(pages):
            return ()
        first = np.where(pages >= SHARED_PAGES, table[:, SHARED_PAGES - 1], -1)
        last = np.where(self._places < pages, table[np.arange(len(pages)), self._places], -1)
        return first.tobytes(), last.tobytes()


def _common(table: Ints, pages: Ints, rows: Ints, leaders: Ints, starts: Ints) -> Ints:
    """Leading pages that each row has in common with its leader; `SHARED_PAGES` behind `starts` are known."""
    low = starts[rows] + SHARED_PAGES
    high = np.minimum(pages[rows], pages[leaders])
    while (low < high).any():
        middle = (low + high + 1) // 2
        same = table[rows, middle - 1] == table[leaders, middle - 1]
        low, high = np.where(same, middle, low), np.where(same, high, middle - 1)
    return low


def decode_work(
    tokens: Ints, lengths: Ints, places: Ints, groups: Groups | None, page_tokens: int, kv_heads: int, workers: int
) -> DecodeWork:
    """Items for rows (rows,) with their token in the batch, keys and place in the device's page table."""
    begin = carried = first = np.zeros(len(lengths), np.int64)
    shared = members = None
    if groups is not None:
        begin = groups.starts * page_tokens
        if groups.work is None:
            groups.work = _shared_items(groups, places, page_tokens, kv_heads, workers)
        shared, carried = groups.work
        first = np.cumsum(carried) - carried
        row = groups.members
        members = np.stack((tokens[row], lengths[row], first[row]), axis=1).astype(np.int32)
    used = int(carried.sum())
    keys = lengths - begin
    size = _cut(keys, _own_chunk(int(keys.sum()), len(keys), kv_heads, workers))
    pieces = -(-keys // size)
    ends = np.cumsum(pieces)
    row = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(row)) - (ends - pieces)[row]
    item = np.zeros((len(row), ITEM_FIELDS), np.int32)
    item[:, 1] = begin[row] + number * size[row]
    item[:, 2] = np.minimum(item[:, 1] + size[row], lengths[row])
    item[:, 6] = number
    item[:, 10] = np.where(number == 0, carried[row], 0)
    fields = ((0, places), (4, tokens), (5, lengths), (7, pieces), (8, used + ends - pieces), (9, first))
    item[:, 3] = row
    for field, values in fields:
        item[:, field] = values[row]
    order = np.argsort(item[:, 1] - item[:, 2], kind="stable")
    return DecodeWork(item[order], used + (int(ends[-1]) if len(row) > len(lengths) else 0), shared, members)


def own_capacity(rows: int, kv_heads: int, workers: int) -> int:
    """Most items of `rows` rows."""
    return rows + -(-_waves(rows) * workers // kv_heads)


def shared_capacity(rows: int, kv_heads: int, workers: int) -> int:
    """Most items of groups among `rows` rows."""
    return LEVELS * (rows // 2 + rows // SHARED_ROWS) + -(-workers // kv_heads)


def _waves(rows: int) -> int:
    """A graph for few rows must not launch many programs that find nothing to do."""
    return min(WAVES, 1 + rows // 16)


def _own_chunk(keys: int, rows: int, kv_heads: int, workers: int) -> int:
    """Keys of one item where `rows` rows have `keys` of their own: enough items for all workers, and no more."""
    share = keys * kv_heads / workers
    units = min(max(share / FULL_CHUNK_TOKENS, 1), _waves(rows))
    return max(1, -int(-share / units // GRAIN_TOKENS)) * GRAIN_TOKENS


def _cut(keys: Ints, chunk: int) -> Ints:
    """The size of equal pieces of each row that are no longer than `chunk`."""
    pieces = -(-keys // chunk)
    return _grains(-(-keys // pieces))


def _grains(keys: Ints) -> Ints:
    return -(-keys // GRAIN_TOKENS) * GRAIN_TOKENS


def _shared_items(
    groups: Groups, places: Ints, page_tokens: int, kv_heads: int, workers: int
) -> tuple[npt.NDArray[np.int32], Ints]:
    """Items of the groups, one for each tile of rows and piece of the prefix, and the pieces (rows,) of each row."""
    keys = (groups.end - groups.begin) * page_tokens
    tiles = -(-groups.count // SHARED_ROWS)
    # Half as many items as workers: a tile of rows is two units where four query heads share a kv head.
    share = -(-int((tiles * keys).sum()) * kv_heads * 2 // workers)
    size = _cut(keys, max(SHARED_CHUNK_TOKENS, share))
    size = np.maximum(size, _grains(-(-keys // SHARED_PARTS)))
    pieces = -(-keys // size)
    carried, earlier = _count_pieces(groups, pieces, len(places))
    items = tiles * pieces
    group = np.repeat(np.arange(len(tiles)), items)
    number = np.arange(len(group)) - (np.cumsum(items) - items)[group]
    # The tiles of one piece follow each other, so that all but one find its keys in the cache.
    piece, tile = number // tiles[group], number % tiles[group]
    begin = groups.begin[group] * page_tokens + piece * size[group]
    end = np.minimum(begin + size[group], groups.end[group] * page_tokens)
    first = groups.first[group] + tile * SHARED_ROWS
    count = np.minimum(SHARED_ROWS, groups.count[group] - tile * SHARED_ROWS)
    leader = places[groups.members[groups.first[group]]]
    work = np.stack((leader, begin, end, first, count, piece + earlier[group]), axis=1).astype(np.int32)
    return work[np.argsort(begin - end, kind="stable")], carried


def _count_pieces(groups: Groups, pieces: Ints, rows: int) -> tuple[Ints, Ints]:
    """Pieces that each row takes part in, and for each group those that its rows had from groups of earlier levels."""
    carried = np.zeros(rows, np.int64)
    earlier = np.zeros(len(pieces), np.int64)
    for level in range(LEVELS):
        here = groups.level == level
        earlier[here] = carried[groups.members[groups.first[here]]]
        each = np.repeat(np.where(here, pieces, 0), groups.count)
        # A row is in one group of a level.
        is_here = np.repeat(here, groups.count)
        carried[groups.members[is_here]] += each[is_here]
    return carried, earlier


def prefill_work(starts: Ints, tokens: Ints, lengths: Ints, places: Ints) -> npt.NDArray[np.int32]:
    """Tiles of chunks: (tiles, 4) place in the page table, first token, tokens, keys before the first token.

    starts, tokens (chunks,) in the batch, lengths (chunks,) keys after the step. The tile with most keys comes first.
    """
    tiles = -(-tokens // TILE_TOKENS)
    chunk = np.repeat(np.arange(len(tokens)), tiles)
    offset = (np.arange(len(chunk)) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * TILE_TOKENS
    count = np.minimum(TILE_TOKENS, tokens[chunk] - offset)
    before = lengths[chunk] - tokens[chunk] + offset
    work = np.stack((places[chunk], starts[chunk] + offset, count, before), axis=1).astype(np.int32)
    return work[np.argsort(-(before + count), kind="stable")]
