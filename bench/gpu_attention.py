"""The attention backend alone: decode against the bytes of its keys and values, prefill against the matrix units' rate.

Heads of 128 in bfloat16. See README.md.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_timing import BYTES_PER_US, FLOP_PER_US, copies, graph_us
from harness import arguments, report

from sgcore.runner.batch import StaticSize
from sgcore.testing.attention import SCALE, AttentionCase
from sgcore_cuda.attention import CudaAttention
from sgcore_cuda.kernels import CudaKernels

HEAD_DIM = 128
HEADS = {"llama8b": (32, 8), "qwen06b": (16, 8)}
RAGGED = np.random.default_rng(0).integers(100, 2000, 256).tolist()
SHARED = 2048
PREFIXED = (SHARED + np.random.default_rng(0).integers(128, 192, 256)).tolist()

Chunks = Sequence[tuple[int, int]]
DECODE: dict[str, list[int]] = {
    "256 rows of 100 to 2,000": RAGGED,
    "256 rows of 850": [850] * 256,
    "64 rows of 600": [600] * 64,
    "8 rows of 1,000": [1000] * 8,
    "1 row of 600": [600],
    "1 row of 8,192": [8192],
}
PREFILL: dict[str, Chunks] = {
    "2 of 4,096": [(0, 4096)] * 2,
    "8 of 1,024": [(0, 1024)] * 8,
    "64 of 128 after 2,048": [(2048, 128)] * 64,
    "1 of 256 after 2,048": [(2048, 256)],
}


class Case(AttentionCase):
    """Filled on the device, which is faster. `together`: rows that share their first 2,048 tokens."""

    together = 1

    def _page_table(self, shared: Any) -> Any:
        table = super()._page_table({})
        for row in range(len(table)):
            table[row, : SHARED // self.page_tokens] = table[row - row % self.together, : SHARED // self.page_tokens]
        return table

    def _fill_pool(self, poison: float) -> None:
        for pool in self.pool.tensors():
            pool.normal_()


class Group(Case):
    together = 32


def time_us(case: AttentionCase, dtype: torch.dtype | None = None) -> float:
    """Microseconds of a layer, over as many pools as don't fit into the cache."""
    kernels = CudaKernels()
    bytes_each = sum(pool.nbytes for pool in case.pool.tensors())
    pools = [case.pool, *[deepcopy(case.pool) for _ in range(copies(bytes_each) - 1)]]
    backends = [CudaAttention(pool, kernels) for pool in pools]
    for backend in backends:
        case.plan(backend)
    return graph_us(
        [partial(backend.forward, case.q, case.k, case.v, 0, SCALE, None, case.batch) for backend in backends]
    )


def decode(shape: str, name: str, lengths: list[int], kind: type[Case] = Case) -> dict[str, Any]:
    heads = HEADS[shape]
    size = StaticSize(len(lengths), 0, 0)
    case = kind(lengths, heads=heads, head_dim=HEAD_DIM, size=size, dtype=torch.bfloat16, device="cuda")
    us = time_us(case)
    pages = np.unique(np.concatenate([row[: -(-n // 16)] for row, n in zip(case.table, lengths, strict=True)]))
    moved = len(pages) * 16 * heads[1] * HEAD_DIM * 4
    return {
        "shape": shape,
        "rows": name,
        "us": us,
        "TB/s": moved / us / 1e6,
        "share of floor": moved / BYTES_PER_US / us,
    }


def prefill(shape: str, name: str, chunks: Chunks) -> dict[str, Any]:
    heads = HEADS[shape]
    case = Case([], chunks, heads=heads, head_dim=HEAD_DIM, dtype=torch.bfloat16, device="cuda")
    us = time_us(case)
    flop = sum((2 * cached + new) * new * heads[0] * HEAD_DIM * 2 for cached, new in chunks)
    rate = flop / us
    return {
        "shape": shape,
        "chunks": name,
        "us": us,
        "TFLOP/s": rate / 1e6,
        "share of floor": rate / FLOP_PER_US[torch.bfloat16],
    }


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--shapes", default=",".join(HEADS))
    return parser.parse_args()


def main() -> int:
    asked = parse()
    decoded, filled = [], []
    for shape in asked.shapes.split(","):
        decoded += [decode(shape, name, lengths) for name, lengths in DECODE.items()]
        decoded.append(decode(shape, "256 rows of 2,176 to 2,240, 2,048 shared by 32 each", PREFIXED, Group))
        filled += [prefill(shape, name, chunks) for name, chunks in PREFILL.items()]
    report("gpu_attention", {"Decode": decoded, "Causal prefill": filled}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
