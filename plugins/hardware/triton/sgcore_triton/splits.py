"""Sums along `in` in several parts, where a product of few tokens has too few tiles for all multiprocessors."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgcore_triton.launch import overlap, wait_for_inputs

FEWEST_STEPS = 4
"""Of a part: fewer would not fill the pipeline."""
COLUMNS = 512


@triton.jit(do_not_specialize=["tokens"])
def _add_parts(
    sums, bias, out, tokens, ROWS_OUT: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (tokens, ROWS_OUT) from sums (SPLITS, tokens, ROWS_OUT), in a fixed order."""
    token = tl.program_id(1)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < ROWS_OUT
    total = tl.zeros((BLOCK,), tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    for part in tl.static_range(SPLITS):
        total += tl.load(sums + (part * tokens + token) * ROWS_OUT + n, mask=inside, other=0.0)
    tl.store(out + token * ROWS_OUT + n, total.to(out.dtype.element_ty), mask=inside)


def parts(tiles: int, steps: int, programs: int) -> int:
    """Parts of `in`, none of them empty, for so many tiles, steps of a tile, and programs that a device wants."""
    wanted = min(triton.next_power_of_2(max(1, programs // tiles)), max(1, steps // FEWEST_STEPS))
    return triton.cdiv(steps, triton.cdiv(steps, wanted))


def sums_for(out: Tensor, splits: int) -> Tensor:
    """Where the parts go: (splits, tokens, rows) float32, or the output itself."""
    return out if splits == 1 else torch.empty((splits, *out.shape), dtype=torch.float32, device=out.device)


def add(sums: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """The output, with the parts added up where there are several."""
    if sums is out:
        return out
    splits, count, rows = sums.shape
    _add_parts[(triton.cdiv(rows, COLUMNS), count)](
        sums, sums if bias is None else bias, out, count, ROWS_OUT=rows, SPLITS=splits, BLOCK=COLUMNS,
        HAS_BIAS=bias is not None, num_warps=4, **overlap(out),
    )  # fmt: skip
    return out
