"""Paged attention through torch's scaled_dot_product_attention.

Decode rows of similar length are gathered into one padded call, the query heads of a group standing in the query
dimension, so that no key is repeated. Rows that share a long prefix attend to it in one call, and the two parts are
merged by their log-sum-exp (as in arXiv 2501.01005). Each prefill chunk is a call of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sgcore.api import AttentionBackend
from sgcore.cache.pool import KVPool
from sgcore.cache.rows import widened
from sgcore.kernels import Kernels
from sgcore.runner.batch import ForwardBatch

SHARED_PAGES = 4
"""Rows that have at least these pages in common attend to them together."""
GATHERED_TOKENS = 16384
"""Padded tokens of one decode call: what is gathered should stay in the processor's cache."""

QUERY_TOKENS = 256
"""Queries of one call in a prompt: none computes with keys behind the last of them (a quarter faster at 512 tokens)."""

PageTable = np.ndarray


@dataclass(slots=True)
class DecodeGroup:
    """Decode rows that share one padded call."""

    rows: Tensor
    table: Tensor
    """(rows, pages) padded with the scratch page."""
    lengths: Tensor
    shared: int
    """Leading pages that all rows have in common."""
    views: dict[tuple[int, int | None], DecodeView] = field(default_factory=dict)

    def view(self, page_tokens: int, kv_heads: int, window: int | None) -> DecodeView:
        """The group for one kind of layer, made once a step. A window reads no shared prefix."""
        key = (kv_heads, window)
        if key not in self.views:
            shared = 0 if window is not None else self.shared
            own = self.table[:, shared:]
            mask = _length_mask(self.lengths - shared * page_tokens, own.shape[1] * page_tokens, window)
            prefix = _places(self.table[:1, :shared], page_tokens, kv_heads) if shared else None
            self.views[key] = DecodeView(_places(own, page_tokens, kv_heads), mask, prefix)
        return self.views[key]


@dataclass(slots=True)
class DecodeView:
    """Where a layer's keys and values stand: (rows, kv_heads, tokens) indices of head vectors in the pool."""

    own: Tensor
    mask: Tensor
    """Additive mask (rows, 1, 1, tokens) of `own`."""
    prefix: Tensor | None
    """The prefix that the rows share, (1, kv_heads, tokens)."""


@dataclass(slots=True)
class Chunk:
    """One prefill row: tokens [begin, end) of the batch, `length` tokens in the cache after them."""

    begin: int
    end: int
    length: int
    pages: Tensor
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    def mask(self, begin: int, end: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """What the chunk's tokens [begin, end) may see of the row up to the last of them; made once a step."""
        if (begin, window) not in self.masks:
            before = self.length - (self.end - self.begin)
            self.masks[begin, window] = _causal_mask(end - begin, before + end, window, dtype)
        return self.masks[begin, window]

    @property
    def is_whole(self) -> bool:
        """Nothing of the row is cached yet, so keys and values are at hand."""
        return self.length == self.end - self.begin


@dataclass(slots=True)
class Prepared:
    """What `plan` leaves for the layers."""

    groups: list[DecodeGroup]
    chunks: list[Chunk]


class TorchNativeAttention(AttentionBackend):
    """The backend `torch_native`."""

    cache_dtypes: ClassVar[Mapping[str, str]] = {
        "fp8": "float8_e4m3fn",
        "fp8_e4m3": "float8_e4m3fn",
        "int8": "int8",
    }

    def __init__(self, pool: KVPool, kernels: Kernels) -> None:
        self.pool, self.kernels = pool, kernels

    def plan(self, batch: ForwardBatch) -> None:
        batch.attention = Prepared(list(self._groups(batch)), self._chunks(batch))

    def _groups(self, batch: ForwardBatch) -> Iterator[DecodeGroup]:
        lengths = batch.lengths[: batch.decode_rows]
        pages = -(-lengths // self.pool.page_tokens)
        table = batch.page_table[: batch.decode_rows].astype(np.int64)
        table[np.arange(table.shape[1]) >= pages[:, None]] = 0
        kinds = np.stack((prefix_of(table, pages), _rounded(pages)))
        for kind in np.unique(kinds, axis=1).T:
            rows = np.flatnonzero((kinds == kind[:, None]).all(axis=0))
            shared = common_pages(table[rows], pages[rows]) if kind[0] else 0
            width = int(pages[rows].max())
            most = max(1, GATHERED_TOKENS // ((width - shared) * self.pool.page_tokens))
            for part in np.split(rows, range(most, len(rows), most)):
                arrays = (part, table[part, :width], lengths[part])
                yield DecodeGroup(*map(torch.from_numpy, arrays), shared if len(part) > 1 else 0)

    def _chunks(self, batch: ForwardBatch) -> list[Chunk]:
        chunks = []
        for row in range(batch.decode_rows, len(batch.lengths)):
            length = int(batch.lengths[row])
            pages = batch.page_table[row, : -(-length // self.pool.page_tokens)].astype(np.int64)
            begin = int(batch.starts[row])
            chunks.append(Chunk(begin, begin + int(batch.counts[row]), length, torch.from_numpy(pages)))
        return chunks

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, scale: float, window: int | None, batch: ForwardBatch
    ) -> Tensor:
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        # What padding's tokens hold goes on through the layers.
        out = torch.empty_like(q) if batch.size is None else torch.zeros_like(q)
        for group in batch.attention.groups:
            out[group.rows] = self._decode(q[group.rows], keys, values, group, scale, window)
        for chunk in batch.attention.chunks:
            here = slice(chunk.begin, chunk.end)
            out[here] = self._prefill(q[here], k[here], v[here], keys, values, chunk, scale, window)
        return out

    def _decode(
        self, q: Tensor, keys: Tensor, values: Tensor, group: DecodeGroup, scale: float, window: int | None
    ) -> Tensor:
        """q (rows, heads, head_dim); keys and values are a layer's pool."""
        kv_heads = keys.shape[2]
        view = group.view(self.pool.page_tokens, kv_heads, window)
        grouped = q.unflatten(1, (kv_heads, -1))
        k, v = _gather(keys, view.own, q.dtype), _gather(values, view.own, q.dtype)
        own, own_weight = _attend(grouped, k, v, scale, view.mask)
        if view.prefix is None:
            return own.flatten(1, 2)
        together = grouped.transpose(0, 1).reshape(1, kv_heads, -1, q.shape[2])
        k, v = _gather(keys, view.prefix, q.dtype), _gather(values, view.prefix, q.dtype)
        shared, weight = _attend(together, k, v, scale)
        shared, weight = (
            x.reshape(kv_heads, len(q), *own.shape[2 : x.dim()]).transpose(0, 1) for x in (shared, weight)
        )
        share = (weight - own_weight).sigmoid().to(own.dtype)
        return own.lerp(shared, share.unsqueeze(-1)).flatten(1, 2)

    def _prefill(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keys: Tensor,
        values: Tensor,
        chunk: Chunk,
        scale: float,
        window: int | None,
    ) -> Tensor:
        if not chunk.is_whole or keys.dtype != k.dtype:
            k, v = (widened(pool[chunk.pages].flatten(0, 1)[: chunk.length], q.dtype) for pool in (keys, values))
        tokens, out = len(q), torch.empty_like(q)
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        for begin in range(0, tokens, QUERY_TOKENS):
            end = min(begin + QUERY_TOKENS, tokens)
            seen = chunk.length - tokens + end
            mask = chunk.mask(begin, end, window, q.dtype)
            part = F.scaled_dot_product_attention(
                q[:, :, begin:end], k[:, :, :seen], v[:, :, :seen], mask, scale=scale, enable_gqa=True
            )
            out[begin:end] = part.squeeze(0).transpose(0, 1)
        return out


def prefix_of(table: PageTable, pages: PageTable, least: int = SHARED_PAGES) -> PageTable:
    """A number for each row that is the same where the first `least` pages are; 0 where no other row has them.

    A page stands for all tokens up to its end, so rows with the same page there have all earlier ones in common.
    """
    if table.shape[1] <= least:
        return np.zeros(len(table), np.int64)
    page = np.where(pages > least, table[:, least - 1], 0)
    _, place, count = np.unique(page, return_inverse=True, return_counts=True)
    return np.where(count[place] > 1, page, 0)


def common_pages(table: PageTable, pages: PageTable) -> int:
    """Leading pages that all rows have, short of the last page of any."""
    differs = (table != table[0]).any(axis=0)
    return min(int(differs.argmax()) if differs.any() else len(differs), int(pages.min()) - 1)


def _rounded(pages: PageTable) -> PageTable:
    """Page counts up to the next power of two: rows of one group waste less than half of a call."""
    return 2 ** np.ceil(np.log2(np.maximum(pages, 4))).astype(np.int64)


def _places(table: Tensor, page_tokens: int, kv_heads: int) -> Tensor:
    """Indices (rows, kv_heads, tokens) of each head's vectors in a pool seen as (all vectors, head_dim)."""
    slots = (table[:, :, None] * page_tokens + torch.arange(page_tokens)).flatten(1)
    return slots[:, None, :] * kv_heads + torch.arange(kv_heads)[:, None]


def _gather(pool: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor:
    rows = pool.view(-1, pool.shape[3]).index_select(0, places.flatten())
    return widened(rows, dtype).view(*places.shape, -1)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention (batch, heads, queries, head_dim) and the log-sum-exp of its scores (batch, heads, queries)."""
    if mask is not None:
        mask = mask.to(q.dtype)
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return attend(q, k, v, attn_mask=mask, scale=scale)  # type: ignore[no-any-return]


def _length_mask(lengths: Tensor, width: int, window: int | None) -> Tensor:
    place = torch.arange(width)
    hidden = place >= lengths[:, None]
    if window is not None:
        hidden |= place < lengths[:, None] - window
    return torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None, None, :]


def _causal_mask(tokens: int, length: int, window: int | None, dtype: torch.dtype) -> Tensor:
    key = torch.arange(length)
    query = torch.arange(length - tokens, length)[:, None]
    hidden = key > query
    if window is not None:
        hidden |= key <= query - window
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
