"""Products of 8-bit floats on both sides: inputs are rounded by one kernel, multiplied by another.

As in `narrow`, rows of the weight are the rows of the matrix units' tiles, whatever the number of tokens. Programs that
run together share rows of the weight, so that it is read from memory once and the smaller input stays in the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgcore.kernels import FLOAT8, FLOAT8_MOST, LEAST_SCALE, Block
from sgcore_triton import splits
from sgcore_triton.launch import overlap, wait_for_inputs
from sgcore_triton.targets import FLOATS, has_float8

STEP = 128
"""Along `in`; blocks of scales have as many columns."""
LONGEST_ROW = 1 << 16
"""Of an input: a program of `_round_rows` holds one."""


@triton.jit
def _round_rows(
    x, given, out, scales, x_stride,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, IS_GIVEN: tl.constexpr,
    MOST: tl.constexpr, LEAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token: out (tokens, SIZE) in 8 bits, scales (tokens, GROUPS) float32; `given` (1,) stands for all of them."""
    token = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, BLOCK // GROUP)
    k = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    wait_for_inputs(PDL)
    wide = tl.load(x + token * x_stride + k, mask=k < SIZE, other=0.0).to(tl.float32)
    if IS_GIVEN:
        scale = tl.full((BLOCK // GROUP,), 1.0, tl.float32) * tl.load(given)
    else:
        scale = tl.maximum(tl.max(tl.abs(wide), 1) / MOST, LEAST)
        tl.store(scales + token * GROUPS + group, scale, mask=group < GROUPS)
    wide = tl.clamp(wide / scale[:, None], -MOST, MOST)
    tl.store(out + token * SIZE + k, wide.to(out.dtype.element_ty), mask=k < SIZE)


@triton.jit
def _tile(at, k, inside, SIZE: tl.constexpr, STEP: tl.constexpr):
    if SIZE % STEP == 0:
        return tl.load(at, mask=inside, other=0.0)
    return tl.load(at, mask=inside & (k < SIZE), other=0.0)


@triton.jit
def _add(products, w, narrow, scale_at, rate_at, inside, is_token, BLOCK_ROWS: tl.constexpr):
    """One step's products, scaled where the step has scales of its own."""
    if BLOCK_ROWS:
        scale = tl.load(scale_at, mask=inside, other=0.0)
        rate = tl.load(rate_at, mask=is_token, other=0.0)
        return products + tl.dot(w, narrow) * scale[:, None] * rate[None, :]
    return tl.dot(w, narrow, products)


@triton.jit(do_not_specialize=["tokens"])
def _product(
    x, rates, weight, scales, bias, out, tokens,
    ROWS_OUT: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
    SPLITS: tl.constexpr, STAGES: tl.constexpr, BLOCK_ROWS: tl.constexpr, RATES: tl.constexpr, HAS_BIAS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """out (tokens, ROWS_OUT), or sums (SPLITS, tokens, ROWS_OUT) float32.

    x (tokens, SIZE) and weight (ROWS_OUT, SIZE) have 8 bits.
    With `BLOCK_ROWS`, each step has scales of its own: scales (rows / BLOCK_ROWS, steps), rates (tokens, steps).
    Without, scales (ROWS_OUT,) and rates (tokens,), or one of them for all tokens if `RATES` is 0.
    """
    steps: tl.constexpr = (SIZE + STEP - 1) // STEP
    each: tl.constexpr = (steps + SPLITS - 1) // SPLITS
    part = tl.program_id(2)
    first = part * each
    last = tl.minimum(first + each, steps)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, STEP)
    is_token = token < tokens
    inside = n < ROWS_OUT
    at = weight + tl.minimum(n, ROWS_OUT - 1).to(tl.int64)[:, None] * SIZE + k[None, :]
    x_at = x + tl.minimum(token, tokens - 1).to(tl.int64)[None, :] * SIZE + k[:, None]
    everywhere = n[:, None] >= 0
    scale_at = scales
    if BLOCK_ROWS:
        scale_at = scales + n // BLOCK_ROWS * steps
    rate_at = rates + token * steps
    w = _tile(at + first * STEP, k[None, :] + first * STEP, everywhere, SIZE, STEP)
    wait_for_inputs(PDL)
    narrow = _tile(x_at + first * STEP, k[:, None] + first * STEP, is_token[None, :], SIZE, STEP)
    products = tl.zeros((ROWS, TOKENS), tl.float32)
    products = _add(products, w, narrow, scale_at + first, rate_at + first, inside, is_token, BLOCK_ROWS)
    for step in tl.range(first + 1, last, num_stages=STAGES):
        start = step * STEP
        w = _tile(at + start, k[None, :] + start, everywhere, SIZE, STEP)
        narrow = _tile(x_at + start, k[:, None] + start, is_token[None, :], SIZE, STEP)
        products = _add(products, w, narrow, scale_at + step, rate_at + step, inside, is_token, BLOCK_ROWS)
    if not BLOCK_ROWS:
        scale = tl.load(scales + n, mask=inside, other=0.0)
        rate = tl.load(rates + token * RATES, mask=is_token, other=0.0)
        products *= scale[:, None] * rate[None, :]
    if HAS_BIAS:
        products += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)[:, None]
    place = (part * tokens + token).to(tl.int64)[None, :] * ROWS_OUT + n[:, None]
    tl.store(out + place, products.to(out.dtype.element_ty), mask=is_token[None, :] & inside[:, None])


def tile(count: int) -> tuple[int, int, int, int]:
    """Tokens and rows of the weight for a program, stages of the pipeline, and warps. Not measured.

    An H100 multiplies 8-bit floats in groups of 4 warps and 64 rows alone.
    """
    return (128, 128, 4, 8) if count > 64 else (max(16, triton.next_power_of_2(count)), 64, 4, 4)


def takes(x: Tensor, weight: Tensor, block: Block | None) -> bool:
    """Whether the kernels here take this product."""
    return (
        takes_rounding(x, None if block is None else block[1])
        and has_float8(x)
        and x.shape[1] % 16 == 0
        and weight.is_contiguous()
        and (block is None or block[1] == STEP)
    )


def takes_rounding(x: Tensor, group: int | None) -> bool:
    """Whether the kernel here rounds this input."""
    is_power = group is None or group & (group - 1) == 0
    return (
        has_float8(x)
        and x.dim() == 2
        and x.dtype in FLOATS
        and 0 < x.shape[1] <= LONGEST_ROW
        and len(x) > 0
        and x.stride(1) == 1
        and is_power
    )


def quantize(x: Tensor, scale: Tensor | None, group: int | None) -> tuple[Tensor, Tensor]:
    """As `Kernels.quantize_fp8`."""
    count, size = x.shape
    block = max(triton.next_power_of_2(size), group or 1)
    groups = 1 if group is None else triton.cdiv(size, group)
    out = torch.empty((count, size), dtype=FLOAT8, device=x.device)
    scales = torch.empty((count, groups), dtype=torch.float32, device=x.device) if scale is None else scale.view(1, 1)
    _round_rows[(count,)](
        x, scales, out, scales, x.stride(0), SIZE=size, BLOCK=block, GROUP=group or block, GROUPS=groups,
        IS_GIVEN=scale is not None, MOST=FLOAT8_MOST, LEAST=LEAST_SCALE, num_warps=4 if block <= 8192 else 8,
        **overlap(x),
    )  # fmt: skip
    return out, scales


def linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    block: Block | None,
    input_scale: Tensor | None,
) -> Tensor:
    """As `Kernels.linear_fp8`."""
    narrow, rates = quantize(x, input_scale, None if block is None else block[1])
    (count, size), rows = x.shape, weight.shape[0]
    out = torch.empty((count, rows), dtype=x.dtype, device=x.device)
    tokens, rows_each, stages, warps = tile(count)
    tiles = triton.cdiv(count, tokens), triton.cdiv(rows, rows_each)
    parts = splits.parts(tiles[0] * tiles[1], triton.cdiv(size, STEP))
    sums = splits.sums_for(out, parts)
    _product[(*tiles, parts)](
        narrow, rates, weight, scale, x if bias is None else bias, sums, count,
        ROWS_OUT=rows, SIZE=size, TOKENS=tokens, ROWS=rows_each, STEP=STEP, SPLITS=parts, STAGES=stages,
        BLOCK_ROWS=0 if block is None else block[0], RATES=0 if input_scale is not None else 1,
        HAS_BIAS=bias is not None and parts == 1, num_warps=warps, **overlap(x),
    )  # fmt: skip
    return splits.add(sums, bias, out)
