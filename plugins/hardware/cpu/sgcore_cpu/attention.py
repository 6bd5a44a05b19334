"""Paged attention through torch's scaled_dot_product_attention.

Decode rows of similar length are gathered into one padded call, the query heads of a group standing in the query
dimension, so that no key is repeated. Each prefill chunk is a call of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sgcore.api import AttentionBackend
from sgcore.cache.pool import KVPool
from sgcore.kernels import Kernels
from sgcore.runner.batch import ForwardBatch


@dataclass(slots=True)
class DecodeGroup:
    """Decode rows that share one padded call."""

    rows: Tensor
    pages: Tensor
    """(rows, pages) padded with the scratch page."""
    lengths: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)
    """Additive mask (rows, 1, 1, pages * page_tokens) by window."""


@dataclass(slots=True)
class Chunk:
    """One prefill row: tokens [begin, end) of the batch, `length` tokens in the cache after them."""

    begin: int
    end: int
    length: int
    pages: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)

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

    def __init__(self, pool: KVPool, kernels: Kernels) -> None:
        self.pool, self.kernels = pool, kernels

    def plan(self, batch: ForwardBatch) -> None:
        batch.attention = Prepared(self._groups(batch), self._chunks(batch))

    def _groups(self, batch: ForwardBatch) -> list[DecodeGroup]:
        lengths = batch.lengths[: batch.decode_rows]
        pages = -(-lengths // self.pool.page_tokens)
        sizes = np.where(pages > 4, 2 ** np.ceil(np.log2(np.maximum(pages, 1))), 4)
        groups = []
        for size in np.unique(sizes):
            rows = np.flatnonzero(sizes == size)
            table = batch.page_table[rows, : pages[rows].max()].astype(np.int64)
            table[np.arange(table.shape[1]) >= pages[rows, None]] = 0
            groups.append(DecodeGroup(*(torch.from_numpy(x) for x in (rows, table, lengths[rows]))))
        return groups

    def _chunks(self, batch: ForwardBatch) -> list[Chunk]:
        chunks = []
        for row in range(batch.decode_rows, len(batch.lengths)):
            length = int(batch.lengths[row])
            pages = batch.page_table[row, : -(-length // self.pool.page_tokens)].astype(np.int64)
            chunks.append(Chunk(int(batch.starts[row]), int(batch.starts[row + 1]), length, torch.from_numpy(pages)))
        return chunks

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, scale: float, window: int | None, batch: ForwardBatch
    ) -> Tensor:
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        self.kernels.write_kv(keys, values, k, v, batch.slots)
        out = torch.empty_like(q)
        for group in batch.attention.groups:
            out[group.rows] = self._decode(q[group.rows], keys, values, group, scale, window)
        for chunk in batch.attention.chunks:
            here = slice(chunk.begin, chunk.end)
            out[here] = self._prefill(q[here], k[here], v[here], keys, values, chunk, scale, window)
        return out

    def _decode(
        self, q: Tensor, keys: Tensor, values: Tensor, group: DecodeGroup, scale: float, window: int | None
    ) -> Tensor:
        kv_heads = keys.shape[2]
        k, v = (pool[group.pages].flatten(1, 2).transpose(1, 2) for pool in (keys, values))
        if window not in group.masks:
            group.masks[window] = _length_mask(group.lengths, k.shape[2], window, q.dtype)
        grouped = q.unflatten(1, (kv_heads, -1))
        out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=group.masks[window], scale=scale)
        return out.flatten(1, 2)

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
        if not chunk.is_whole:
            k, v = (pool[chunk.pages].flatten(0, 1)[: chunk.length] for pool in (keys, values))
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        is_causal = chunk.is_whole and (window is None or chunk.length <= window)
        if not is_causal and window not in chunk.masks:
            chunk.masks[window] = _causal_mask(q.shape[2], chunk.length, window, q.dtype)
        mask = None if is_causal else chunk.masks[window]
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scale, enable_gqa=True)
        return out.squeeze(0).transpose(0, 1)


def _length_mask(lengths: Tensor, width: int, window: int | None, dtype: torch.dtype) -> Tensor:
    place = torch.arange(width)
    hidden = place >= lengths[:, None]
    if window is not None:
        hidden |= place < lengths[:, None] - window
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))[:, None, None, :]


def _causal_mask(tokens: int, length: int, window: int | None, dtype: torch.dtype) -> Tensor:
    key = torch.arange(length)
    query = torch.arange(length - tokens, length)[:, None]
    hidden = key > query
    if window is not None:
        hidden |= key <= query - window
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
