"""Sums along `in` in several parts, where a product of few tokens has too few tiles for all multiprocessors.

Each program stores its part; the last one to arrive at a tile adds all of them up, in a fixed order.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

FEWEST_STEPS = 4
"""Of a part: fewer would not fill the pipeline."""
MOST_TILES = 1 << 14
"""Of a product that is split."""


@triton.jit
def total(products, sums, arrivals, tile, part, at, size, inside, SPLITS: tl.constexpr):
    """The sum of all parts, and whether this program has it: it is the last one to arrive at `tile`.

    `at` are the places of a part in sums (SPLITS, size) float32; arrivals int32 is zero before and after.
    """
    tl.store(sums + part.to(tl.int64) * size + at, products, mask=inside)
    tl.debug_barrier()
    is_last = tl.atomic_add(arrivals + tile, 1, sem="acq_rel") == SPLITS - 1
    if is_last:
        products = tl.zeros_like(products)
        for other in tl.static_range(SPLITS):
            products += tl.load(sums + other * size + at, mask=inside, other=0.0, cache_modifier=".cg")
        tl.store(arrivals + tile, 0)
    return products, is_last


def parts(tiles: int, steps: int, programs: int) -> int:
    """Parts of `in`, none of them empty, for so many tiles, steps of a tile, and programs that a device wants."""
    wanted = min(triton.next_power_of_2(max(1, programs // tiles)), max(1, steps // FEWEST_STEPS))
    return triton.cdiv(steps, triton.cdiv(steps, wanted))


def room(out: Tensor, splits: int) -> tuple[Tensor, Tensor]:
    """Where the parts of `out` go, (splits, *out.shape) float32, and where programs are counted; else `out` itself."""
    if splits == 1:
        return out, out
    return torch.empty((splits, *out.shape), dtype=torch.float32, device=out.device), _arrivals(out.device)


@cache
def _arrivals(device: torch.device) -> Tensor:
    """One for all launches, which run one after the other; a kernel is launched once before a graph has it."""
    return torch.zeros(MOST_TILES, dtype=torch.int32, device=device)
