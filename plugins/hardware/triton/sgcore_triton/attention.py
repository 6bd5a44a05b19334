"""The attention backend `triton`: paged prefill and decode, prefixes that rows share read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from sgcore.api import AttentionBackend, PageLayout
from sgcore.cache.pool import KVPool
from sgcore.errors import LaunchError
from sgcore.kernels import FLOAT8, Kernels
from sgcore.runner.batch import ForwardBatch
from sgcore_triton.decode import decode_kernel, shared_kernel
from sgcore_triton.launch import overlap
from sgcore_triton.prefill import prefill_kernel
from sgcore_triton.targets import has_float8, runs_here
from sgcore_triton.work import (
    LEVELS,
    SHARED_PARTS,
    SHARED_ROWS,
    TILE_TOKENS,
    GroupCache,
    Groups,
    Ints,
    decode_work,
    own_capacity,
    prefill_work,
    shared_capacity,
)

LOG2_E = 1.4426950408889634
SHORT_CHUNK_TOKENS = 512
MERGED_VECTORS = 128
"""Heads' partial results that a merge has in flight at a time: 128 registers a thread for head_dim 128."""


@dataclass(frozen=True, slots=True)
class Tile:
    """How a kernel runs: queries (tokens times heads), keys of a step, warps and pipeline stages."""

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(slots=True)
class DecodePlan:
    """Rows with one new token: their work lists (see `work`) on the device."""

    own: Tensor
    """(items, ITEM_FIELDS) int32."""
    arrived: Tensor
    partials: int
    """Partial results there may be."""
    shared: Tensor | None = None
    """(items, SHARED_FIELDS) int32."""
    members: Tensor | None = None
    """(members, MEMBER_FIELDS) int32."""


@dataclass(slots=True)
class PrefillPlan:
    """Chunks: tiles of those that are read from pages first, then tiles of those that dense attention may take."""

    tiles: Tensor
    """(tiles, 4) int32: `work.prefill_work`."""
    paged: int
    dense: list[tuple[int, int]]
    """Tokens [begin, end) of the batch of each chunk that is a whole row."""
    is_short: bool
    """Whether there are so few tokens that small tiles are needed to occupy the device."""


@dataclass(slots=True)
class Prepared:
    """What `plan` leaves for the layers."""

    decode: DecodePlan | None
    prefill: PrefillPlan | None


@dataclass(slots=True)
class Shape:
    """What a launch needs to know of a layer."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int
    softcap: float
    scale: float

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads


class TritonAttention(AttentionBackend):
    """The backend `triton`. A platform's subclass may pick tiles and what whole chunks are computed with."""

    layout = PageLayout(16)
    dense_tokens: ClassVar[int | None] = None
    """Whole chunks of at least so many tokens go to `attend_dense`; None: never."""
    can_capture = True
    cache_dtypes: ClassVar[Mapping[str, str]] = {"fp8": "float8_e4m3fn", "fp8_e4m3": "float8_e4m3fn"}

    def __init__(self, pool: KVPool, kernels: Kernels) -> None:
        self.pool, self.kernels = pool, kernels
        keys = pool.keys[0]
        if not runs_here(keys):
            raise LaunchError("Triton's attention needs a GPU", "leave --attention-backend out")
        if keys.dtype == FLOAT8 and not has_float8(keys):
            raise LaunchError("this device has no 8-bit floats for keys and values", "leave --kv-cache-dtype out")
        self.processors = _processors(keys.device)
        self._workers = 2 * self.processors
        self._kv_heads = max(layer.shape[2] for layer in pool.keys)
        self._arrived: list[Tensor] = []
        self._groups = GroupCache(pool.page_tokens)

    def decode_tile(self, shape: Shape, dtype: torch.dtype) -> Tile:
        """For rows alone; `queries` is at least the heads of a group."""
        return Tile(max(16, triton.next_power_of_2(shape.group)), 32, 4, 3)

    def shared_tile(self, shape: Shape, dtype: torch.dtype) -> Tile:
        """For rows that share a prefix."""
        small = shape.head_dim * dtype.itemsize <= 256
        return Tile(max(64, triton.next_power_of_2(shape.group)), 64 if small else 32, 4, 3)

    def prefill_tile(self, shape: Shape, dtype: torch.dtype, is_short: bool) -> Tile:
        small = shape.head_dim * dtype.itemsize <= 256
        if small and is_short:
            return Tile(max(64, triton.next_power_of_2(shape.group)), 64, 4, 3)
        return Tile(max(128 if small else 64, triton.next_power_of_2(shape.group)), 64 if small else 32, 8, 3)

    def attend_dense(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Causal attention of one whole row: q (tokens, heads, head_dim), k and v (tokens, kv_heads, head_dim)."""
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        return out.squeeze(0).transpose(0, 1)

    def variant(self, batch: ForwardBatch) -> bool:
        """Whether rows of the batch share prefixes that are worth a kernel of their own."""
        return self._find_groups(batch, _single_rows(batch)) is not None

    def plan(self, batch: ForwardBatch) -> None:
        single, size = _single_rows(batch), batch.size
        chunks = np.setdiff1d(np.arange(len(batch.rows)), single, assume_unique=True)
        has_decode, has_chunks = (len(single), len(chunks)) if size is None else (size.decode_rows, size.chunk_tokens)
        batch.attention = Prepared(
            self._plan_decode(batch, single) if has_decode else None,
            self._plan_prefill(batch, chunks) if has_chunks else None,
        )

    def _find_groups(self, batch: ForwardBatch, rows: Ints) -> Groups | None:
        # Single rows mostly stand in front: a view spares a copy of the table.
        part = slice(len(rows)) if len(rows) and rows[-1] == len(rows) - 1 else rows
        return self._groups.find(batch.page_table[part], batch.lengths[part], batch.rows[part])

    def _plan_decode(self, batch: ForwardBatch, rows: Ints) -> DecodePlan:
        groups = self._find_groups(batch, rows)
        inputs = (batch.starts[rows], batch.lengths[rows], batch.rows[rows])
        sizes = (self._kv_heads, self._workers)
        work = decode_work(*inputs, groups, self.pool.page_tokens, *sizes)
        put, is_static = batch.inputs.put, batch.size is not None
        count = batch.size.decode_rows if batch.size else len(rows)
        items = own_capacity(count, *sizes)
        plan = DecodePlan(put(_padded(work.own, items if is_static else 0)), self._counters(batch), work.partials)
        if is_static:
            plan.partials = items + (count * LEVELS * SHARED_PARTS if groups is not None else 0)
        if work.shared is not None and work.members is not None:
            plan.shared = put(_padded(work.shared, shared_capacity(count, *sizes) if is_static else 0))
            plan.members = put(_padded(work.members, LEVELS * count if is_static else 0))
        return plan

    def _counters(self, batch: ForwardBatch) -> Tensor:
        """Zeros, (rows, kv_heads): which every launch leaves as it found them. A captured graph keeps its address."""
        size = max(len(batch.pages), len(batch.rows)) * self._kv_heads
        if not self._arrived or len(self._arrived[-1]) < size:
            self._arrived.append(torch.zeros(size, dtype=torch.int32, device=batch.pages.device))
        return self._arrived[-1]

    def _plan_prefill(self, batch: ForwardBatch, chunks: Ints) -> PrefillPlan:
        starts, lengths, places = batch.starts[chunks], batch.lengths[chunks], batch.rows[chunks]
        tokens = batch.counts[chunks]
        if batch.size is not None:
            tiles = batch.size.chunk_rows + batch.size.chunk_tokens // TILE_TOKENS
            work = prefill_work(starts, tokens, lengths, places)
            is_short = batch.size.chunk_tokens <= SHORT_CHUNK_TOKENS
            return PrefillPlan(batch.inputs.put(_padded(work, tiles)), tiles, [], is_short)
        is_dense = np.zeros(len(chunks), bool)
        if self.dense_tokens is not None:
            is_dense = (lengths == tokens) & (tokens >= self.dense_tokens)
        paged, whole = (
            prefill_work(starts[kind], tokens[kind], lengths[kind], places[kind]) for kind in (~is_dense, is_dense)
        )
        spans = list(zip(starts[is_dense].tolist(), (starts + tokens)[is_dense].tolist(), strict=True))
        is_short = int(tokens[~is_dense].sum()) <= SHORT_CHUNK_TOKENS
        return PrefillPlan(batch.inputs.put(np.concatenate((paged, whole))), len(paged), spans, is_short)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: int,
        scale: float,
        window: int | None,
        batch: ForwardBatch,
        softcap: float | None = None,
    ) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        shape = Shape(q.shape[1], keys.shape[2], q.shape[2], window or 0, softcap or 0.0, scale)
        prepared: Prepared = batch.attention
        if prepared.decode is not None:
            self._decode(q, keys, values, out, shape, prepared.decode, batch.pages)
        if prepared.prefill is not None:
            self._prefill(q, k, v, keys, values, out, shape, prepared.prefill, batch.pages)
        return out

    def _decode(
        self, q: Tensor, keys: Tensor, values: Tensor, out: Tensor, shape: Shape, plan: DecodePlan, pages: Tensor
    ) -> None:
        partial = torch.empty((plan.partials, shape.heads, shape.head_dim), dtype=torch.float32, device=q.device)
        lse = torch.empty((plan.partials, shape.heads), dtype=torch.float32, device=q.device)
        strides = (q.stride(0), q.stride(1), *keys.stride()[:3], pages.stride(0))
        common = {
            "GROUP": shape.group,
            "KV_HEADS": shape.kv_heads,
            "HEAD_DIM": shape.head_dim,
            "BLOCK_D": triton.next_power_of_2(shape.head_dim),
            "PAGE": self.pool.page_tokens,
            "WINDOW": shape.window,
            "SOFTCAP": shape.softcap,
            **overlap(q),
        }
        if plan.shared is not None:
            tile = self.shared_tile(shape, q.dtype)
            subtiles = -(-SHARED_ROWS // (tile.queries // shape.group))
            shared_kernel[(len(plan.shared) * subtiles * shape.kv_heads,)](
                q, keys, values, partial, lse, pages, plan.shared, plan.members, shape.scale * LOG2_E, *strides,
                SUBTILES=subtiles, BLOCK_M=tile.queries, BLOCK_N=tile.keys, STAGES=tile.stages, num_warps=tile.warps,
                **common,
            )  # fmt: skip
        tile = self.decode_tile(shape, q.dtype)
        decode_kernel[(len(plan.own) * shape.kv_heads,)](
            q, keys, values, out, partial, lse, pages, plan.own, plan.arrived, shape.scale * LOG2_E, *strides,
            CARRIES=plan.shared is not None, BLOCK_M=tile.queries, BLOCK_N=tile.keys,
            BLOCK_S=max(1, MERGED_VECTORS // triton.next_power_of_2(shape.group)), STAGES=tile.stages,
            num_warps=tile.warps, **common,
        )  # fmt: skip

    def _prefill(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        keys: Tensor,
        values: Tensor,
        out: Tensor,
        shape: Shape,
        plan: PrefillPlan,
        pages: Tensor,
    ) -> None:
        is_plain = shape.softcap == 0 and shape.window == 0
        tiles = plan.paged if is_plain else len(plan.tiles)
        for begin, end in plan.dense if is_plain else ():
            out[begin:end] = self.attend_dense(q[begin:end], k[begin:end], v[begin:end], shape.scale)
        if not tiles:
            return
        tile = self.prefill_tile(shape, q.dtype, plan.is_short)
        subtiles = -(-TILE_TOKENS // (tile.queries // shape.group))
        prefill_kernel[(tiles * subtiles * shape.kv_heads,)](
            q, keys, values, out, pages, plan.tiles,
            shape.scale * LOG2_E, q.stride(0), q.stride(1), *keys.stride()[:3], pages.stride(0),
            GROUP=shape.group, KV_HEADS=shape.kv_heads, HEAD_DIM=shape.head_dim, PAGE=self.pool.page_tokens,
            WINDOW=shape.window, SOFTCAP=shape.softcap, SUBTILES=subtiles,
            BLOCK_M=tile.queries, BLOCK_N=tile.keys, BLOCK_D=triton.next_power_of_2(shape.head_dim),
            STAGES=tile.stages, num_warps=tile.warps, **overlap(q),
        )  # fmt: skip


def _single_rows(batch: ForwardBatch) -> Ints:
    """Rows with one new token, decode rows and chunks alike; of a static batch those that decode."""
    return np.arange(batch.decode_rows) if batch.size is not None else np.flatnonzero(batch.counts == 1)


def _padded(items: Ints, capacity: int) -> Ints:
    """The list with items behind it that have no keys; a program that finds one ends."""
    if len(items) >= capacity:
        return items
    padded = np.zeros((capacity, items.shape[1]), items.dtype)
    padded[: len(items)] = items
    return padded


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
