"""Paged attention in the native library: keys and values are read where they are, a shared prefix once."""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sgcore.cache.pool import KVPool
from sgcore.kernels import Kernels
from sgcore.runner.batch import ForwardBatch
from sgcore_cpu.attention import TorchNativeAttention
from sgcore_cpu.kernels import NATIVE, CpuKernels
from sgcore_cpu.library import Library
from sgcore_cpu.pieces import MOST_QUERIES, Array, Shape, pieces_of

KEYS = 64
"""Keys of one step of the native function."""
DIVISOR = 16
"""Of a head's dimension: the widest vector."""


@dataclass(slots=True)
class Prepared:
    """What `plan` leaves for the layers; pieces are made for each kind of layer when it is met first."""

    table: Array
    threads: int
    calls: dict[tuple[int, int, int, int | None], Call] = field(default_factory=dict)


class Call:
    """The arguments of the native function that layers of one kind share in a step."""

    def __init__(self, batch: ForwardBatch, prepared: Prepared, shape: Shape, head_dim: int) -> None:
        made = self.made = pieces_of(batch, shape)
        row = 2 * (MOST_QUERIES + KEYS) * head_dim + MOST_QUERIES * (KEYS + 2)
        self.empty = torch.empty if batch.size is None else torch.zeros
        self.scratch = torch.empty(shape.threads, row)
        self.partial = torch.empty(made.slots, shape.heads, head_dim + 1)
        self.weights = self.partial.view(-1)[made.slots * shape.heads * head_dim :]
        arrays = (prepared.table, made.pieces, made.tokens, made.limits)
        table, pieces, tokens, limits = (array.ctypes.data for array in arrays)
        buffers = (x.data_ptr() for x in (self.partial, self.weights, self.scratch))
        merges = (array.ctypes.data for array in (made.merged, made.begins, made.parts))
        self.pointers = (c_void_p * 14)(None, None, None, table, pieces, tokens, limits, None, *buffers, *merges)
        self.sizes = (c_int64 * 10)(
            0, prepared.table.shape[1], shape.page_tokens, len(made.pieces), row, shape.heads, shape.kv_heads, head_dim,
            shape.window or 0, len(made.merged),
        )  # fmt: skip

    def run(self, library: Library, q: Tensor, keys: Tensor, values: Tensor, scale: float, threads: int) -> Tensor:
        out: Tensor = self.empty(q.shape, dtype=q.dtype)
        pointers = self.pointers
        pointers[0], pointers[1], pointers[2] = q.data_ptr(), keys.data_ptr(), values.data_ptr()
        pointers[7], self.sizes[0] = out.data_ptr(), q.stride(0)
        library.attention(pointers, self.sizes, scale, q.dtype == torch.bfloat16, threads)
        return out


class NativeAttention(TorchNativeAttention):
    """The backend `cpu_native`; where the library can't compute a model's attention, torch does."""

    def __init__(self, pool: KVPool, kernels: Kernels) -> None:
        super().__init__(pool, kernels)
        library = kernels.library if isinstance(kernels, CpuKernels) else None
        is_fit = all(keys.dtype in NATIVE and keys.shape[3] % DIVISOR == 0 for keys in pool.keys)
        self.library = library if is_fit else None

    def plan(self, batch: ForwardBatch) -> None:
        if self.library is None:
            return super().plan(batch)
        batch.attention = Prepared(np.ascontiguousarray(batch.page_table, np.int32), torch.get_num_threads())

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, scale: float, window: int | None, batch: ForwardBatch
    ) -> Tensor:
        if self.library is None:
            return super().forward(q, k, v, layer, scale, window, batch)
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        heads, kv_heads, head_dim = q.shape[1], keys.shape[2], keys.shape[3]
        prepared: Prepared = batch.attention
        key = (heads, kv_heads, head_dim, window)
        if key not in prepared.calls:
            shape = Shape(heads, kv_heads, self.pool.page_tokens, window, prepared.threads)
            prepared.calls[key] = Call(batch, prepared, shape, head_dim)
        return prepared.calls[key].run(self.library, q, keys, values, scale, prepared.threads)
