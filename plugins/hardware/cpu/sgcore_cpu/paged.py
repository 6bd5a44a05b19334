"""Paged attention in the native library: keys and values are read where they are, a shared prefix once."""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sgcore.cache.pool import KVPool
from sgcore.kernels import Kernels
from sgcore.runner.batch import ForwardBatch, StaticSize
from sgcore_cpu.attention import TorchNativeAttention
from sgcore_cpu.kernels import NATIVE, CpuKernels
from sgcore_cpu.library import Library
from sgcore_cpu.pieces import MOST_QUERIES, Array, Shape, pieces_of

KEYS = 64
"""Keys of one step of the native function."""
DIVISOR = 16
"""Of a head's dimension: the widest vector."""


Kind = tuple[int, int, int, int | None]
"""Of a layer: heads, kv heads, dimensions of a head, window."""


@dataclass(slots=True)
class Prepared:
    """What `plan` leaves for the layers; calls are made for each kind of layer when it is met first."""

    table: Array
    threads: int
    calls: dict[Kind, Call]


class Call:
    """The arguments of the native function that layers of one kind share in a step.

    They stay where they are, so that a recorded step finds those of another step there.
    """

    def __init__(self, kind: Kind, page_tokens: int, threads: int) -> None:
        heads, kv_heads, self.head_dim, window = kind
        self.shape = Shape(heads, kv_heads, page_tokens, window, threads)
        self.row = (3 * MOST_QUERIES + 2 * KEYS) * self.head_dim + MOST_QUERIES * (KEYS + 2)
        self.scratch = torch.empty(threads, self.row)
        self.pointers, self.sizes = (c_void_p * 10)(), (c_int64 * 9)()

    def prepare(self, batch: ForwardBatch, table: Array) -> None:
        """Take another step's rows."""
        shape = self.shape
        made = self.made = pieces_of(batch, shape)
        results = made.slots * shape.heads
        partial = torch.empty(results * (self.head_dim + 1))
        arrays = (table, made.pieces, made.tokens, made.limits)
        merges = (made.merged, made.begins, made.parts)
        first = partial.data_ptr()
        buffers = (first, first + 4 * results * self.head_dim, self.scratch.data_ptr())
        self.table, self.partial = table, partial
        self.pointers[:] = [*(array.ctypes.data for array in arrays), *buffers, *(x.ctypes.data for x in merges)]
        self.sizes[:] = [
            table.shape[1], shape.page_tokens, len(made.pieces), self.row, shape.heads, shape.kv_heads, self.head_dim,
            shape.window or 0, len(made.merged),
        ]  # fmt: skip

    def run(self, library: Library, q: Tensor, keys: Tensor, values: Tensor, out: Tensor, scale: float) -> Tensor:
        library.attention(
            q.data_ptr(), q.stride(0), keys.data_ptr(), values.data_ptr(), out.data_ptr(), self.pointers, self.sizes,
            scale, q.dtype == torch.bfloat16, keys.dtype == torch.int8, self.shape.threads,
        )  # fmt: skip
        return out


class NativeAttention(TorchNativeAttention):
    """The backend `cpu_native`; where the library can't compute a model's attention, torch does."""

    def __init__(self, pool: KVPool, kernels: Kernels) -> None:
        super().__init__(pool, kernels)
        library = kernels.library if isinstance(kernels, CpuKernels) else None
        has_type = pool.keys[0].dtype in (*NATIVE, torch.int8)
        is_fit = has_type and all(layer.head_dim % DIVISOR == 0 for layer in pool.layers)
        self.library = library if is_fit else None
        self.can_capture = self.library is not None
        self._static: dict[StaticSize, dict[Kind, Call]] = {}
        """Of the sizes of steps that are recorded."""

    def plan(self, batch: ForwardBatch) -> None:
        if self.library is None:
            return super().plan(batch)
        calls: dict[Kind, Call] = {} if batch.size is None else self._static.setdefault(batch.size, {})
        table = np.ascontiguousarray(batch.page_table, np.int32)
        for call in calls.values():
            call.prepare(batch, table)
        batch.attention = Prepared(table, torch.get_num_threads(), calls)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, scale: float, window: int | None, batch: ForwardBatch
    ) -> Tensor:
        if self.library is None:
            return super().forward(q, k, v, layer, scale, window, batch)
        if q.dtype not in NATIVE:  # float64, over a pool of 8 bits
            return self.forward(q.float(), k, v, layer, scale, window, batch).to(q.dtype)
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        kind = (q.shape[1], keys.shape[2], q.shape[2], window)
        prepared: Prepared = batch.attention
        if kind not in prepared.calls:
            prepared.calls[kind] = Call(kind, self.pool.page_tokens, prepared.threads)
            prepared.calls[kind].prepare(batch, prepared.table)
        # What padding's tokens hold goes on through the layers.
        out = torch.empty(q.shape, dtype=q.dtype) if batch.size is None else torch.zeros(q.shape, dtype=q.dtype)
        return prepared.calls[kind].run(self.library, q, keys, values, out, scale)
