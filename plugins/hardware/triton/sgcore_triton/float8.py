"""Products of 8-bit floats on both sides: inputs are rounded by one kernel, multiplied by another.

As in `narrow`, rows of the weight are the rows of the matrix units' tiles, whatever the number of tokens. Programs that
run together share rows of the weight, so that it is read from memory once and the smaller input stays in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgcore.kernels import FLOAT8, FLOAT8_MOST, LEAST_SCALE, Block
from sgcore_triton import splits
from sgcore_triton.launch import overlap, wait_for_inputs
from sgcore_triton.norms import gated
from sgcore_triton.targets import FLOATS, has_float8

STEP = 128
"""Along `in`; blocks of scales have as many columns."""
WIDEST_GATED = 64
"""Tokens of a program that computes two products."""
PROGRAMS = 256
"""With fewer tiles than these, `in` is split."""
LONGEST_ROW = 1 << 16
"""Of an input: a program of `_round_rows` holds one."""


@triton.jit
def _round(
    wide, given, out, scales, token, k, group,
    SIZE: tl.constexpr, GROUPS: tl.constexpr, IS_GIVEN: tl.constexpr, MOST: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """One token's features (groups, features of a group) to 8 bits; `given` (1,) is the scale of all."""
    if IS_GIVEN:
        scale = tl.zeros_like(group) + tl.load(given)
    else:
        scale = tl.maximum(tl.max(tl.abs(wide), 1) / MOST, LEAST)
        tl.store(scales + token * GROUPS + group, scale, mask=group < GROUPS)
    wide = tl.clamp(wide / scale[:, None], -MOST, MOST)
    tl.store(out + token * SIZE + k, wide.to(out.dtype.element_ty), mask=k < SIZE)


@triton.jit
def _round_rows(
    x, given, out, scales, x_stride,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, IS_GIVEN: tl.constexpr,
    MOST: tl.constexpr, LEAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One token: out (tokens, SIZE) in 8 bits, scales (tokens, GROUPS) float32."""
    token = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, BLOCK // GROUP)
    k = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    wait_for_inputs(PDL)
    wide = tl.load(x + token * x_stride + k, mask=k < SIZE, other=0.0).to(tl.float32)
    _round(wide, given, out, scales, token, k, group, SIZE, GROUPS, IS_GIVEN, MOST, LEAST)


@triton.jit(do_not_specialize=["eps"])
def _norm_and_round(
    x, residual, norm, given, out, scales, total, x_stride, residual_stride, eps,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, IS_GIVEN: tl.constexpr,
    ADDS: tl.constexpr, MOST: tl.constexpr, LEAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """As `_norm_rows`, its result rounded as by `_round_rows`."""
    token = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, BLOCK // GROUP)
    k = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = k < SIZE
    weight = tl.load(norm + k, mask=inside, other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    wide = tl.load(x + token * x_stride + k, mask=inside, other=0.0).to(tl.float32)
    dtype: tl.constexpr = x.dtype.element_ty
    if ADDS:
        wide += tl.load(residual + token * residual_stride + k, mask=inside, other=0.0).to(tl.float32)
        rounded = wide.to(dtype)
        tl.store(total + token * SIZE + k, rounded, mask=inside)
        wide = rounded.to(tl.float32)
    normed = (wide * tl.rsqrt(tl.sum(wide * wide) / SIZE + eps)).to(dtype).to(tl.float32)
    wide = (normed * weight).to(dtype).to(tl.float32)
    _round(wide, given, out, scales, token, k, group, SIZE, GROUPS, IS_GIVEN, MOST, LEAST)


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


@triton.jit
def _finish(products, scales, bias, rate, n, inside, BLOCK_ROWS: tl.constexpr, HAS_BIAS: tl.constexpr):
    if not BLOCK_ROWS:
        products *= tl.load(scales + n, mask=inside, other=0.0)[:, None] * rate[None, :]
    if HAS_BIAS:
        products += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)[:, None]
    return products


@triton.jit(do_not_specialize=["tokens"])
def _product(
    x, rates, weight, scales, bias, sums, arrivals, out, tokens,
    ROWS_OUT: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
    SPLITS: tl.constexpr, STAGES: tl.constexpr, BLOCK_ROWS: tl.constexpr, RATES: tl.constexpr, HAS_BIAS: tl.constexpr,
    GATED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (tokens, ROWS_OUT); see `splits` for sums and arrivals.

    x (tokens, SIZE) and weight (ROWS_OUT, SIZE) have 8 bits.
    With `BLOCK_ROWS`, each step has scales of its own: scales (rows / BLOCK_ROWS, steps), rates (tokens, steps).
    Without, scales (ROWS_OUT,) and rates (tokens,), or one of them for all tokens if `RATES` is 0.
    `GATED`: the weight has as many rows again, and silu of the first half's product is multiplied by the second's.
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
    up_at = at + tl.full((), ROWS_OUT, tl.int64) * SIZE
    x_at = x + tl.minimum(token, tokens - 1).to(tl.int64)[None, :] * SIZE + k[:, None]
    everywhere = n[:, None] >= 0
    scale_at = scales
    up_scale_at = scales
    if BLOCK_ROWS:
        scale_at = scales + n // BLOCK_ROWS * steps
        up_scale_at = scales + (n + ROWS_OUT) // BLOCK_ROWS * steps
    rate_at = rates + token * steps
    w = _tile(at + first * STEP, k[None, :] + first * STEP, everywhere, SIZE, STEP)
    w_up = w
    if GATED:
        w_up = _tile(up_at + first * STEP, k[None, :] + first * STEP, everywhere, SIZE, STEP)
    wait_for_inputs(PDL)
    narrow = _tile(x_at + first * STEP, k[:, None] + first * STEP, is_token[None, :], SIZE, STEP)
    nothing = tl.zeros((ROWS, TOKENS), tl.float32)
    products = _add(nothing, w, narrow, scale_at + first, rate_at + first, inside, is_token, BLOCK_ROWS)
    others = nothing
    if GATED:
        others = _add(nothing, w_up, narrow, up_scale_at + first, rate_at + first, inside, is_token, BLOCK_ROWS)
    for step in tl.range(first + 1, last, num_stages=STAGES):
        start = step * STEP
        w = _tile(at + start, k[None, :] + start, everywhere, SIZE, STEP)
        narrow = _tile(x_at + start, k[:, None] + start, is_token[None, :], SIZE, STEP)
        products = _add(products, w, narrow, scale_at + step, rate_at + step, inside, is_token, BLOCK_ROWS)
        if GATED:
            w = _tile(up_at + start, k[None, :] + start, everywhere, SIZE, STEP)
            others = _add(others, w, narrow, up_scale_at + step, rate_at + step, inside, is_token, BLOCK_ROWS)
    written = is_token[None, :] & inside[:, None]
    at = token.to(tl.int64)[None, :] * ROWS_OUT + n[:, None]
    if SPLITS > 1:
        place = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        size = tokens.to(tl.int64) * ROWS_OUT
        products, is_last = splits.total(products, sums, arrivals, place, part, at, size, written, SPLITS)
        written = written & is_last
    rate = tl.load(rates + token * RATES, mask=is_token, other=0.0)
    products = _finish(products, scales, bias, rate, n, inside, BLOCK_ROWS, HAS_BIAS)
    dtype: tl.constexpr = out.dtype.element_ty
    if GATED:
        others = _finish(others, scales + ROWS_OUT, bias + ROWS_OUT, rate, n, inside, BLOCK_ROWS, HAS_BIAS)
        products = gated(products, others, dtype)
    tl.store(out + at, products.to(dtype), mask=written)


def tile(tokens: int, rows: int, size: int, block: Block | None, is_gated: bool) -> tuple[int, int, int, int, int, int]:
    """Tokens and rows of the weight for a program, its step along `in`, parts of `in`, stages, and warps.

    Measured on one H100, which multiplies 8-bit floats in groups of 4 warps and 64 rows alone.
    """
    if tokens > WIDEST_GATED:
        return 128, 128, STEP, 1, 4, 8
    step = 2 * STEP if block is None and tokens <= 32 else STEP
    tiles = triton.cdiv(rows, 64)
    parts = 1 if is_gated else splits.parts(tiles, triton.cdiv(size, step), PROGRAMS)
    return tokens, 64, step, parts, 4, 4


def takes(x: Tensor, weight: Tensor, block: Block | None) -> bool:
    """Whether the kernels here take this product."""
    return (
        has_float8(x)
        and len(x) > 0
        and x.shape[1] % 16 == 0
        and x.is_contiguous()
        and weight.is_contiguous()
        and (block is None or block[1] == STEP)
    )


def gates(x: Tensor, weight: Tensor, block: Block | None) -> bool:
    """Whether one program should compute both halves of a gated product: of few tokens, with blocks of one half."""
    return len(x) <= WIDEST_GATED and (block is None or len(weight) // 2 % block[0] == 0)


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


def _rounded(x: Tensor, scale: Tensor | None, group: int | None) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Where a rounded input and its scales go, and what both kernels need to know."""
    count, size = x.shape
    block = max(triton.next_power_of_2(size), group or 1)
    groups = 1 if group is None else triton.cdiv(size, group)
    out = torch.empty((count, size), dtype=FLOAT8, device=x.device)
    scales = torch.empty((count, groups), dtype=torch.float32, device=x.device) if scale is None else scale.view(1, 1)
    constants = {
        "SIZE": size, "BLOCK": block, "GROUP": group or block, "GROUPS": groups, "IS_GIVEN": scale is not None,
        "MOST": FLOAT8_MOST, "LEAST": LEAST_SCALE, "num_warps": 4 if block <= 4096 else 8,
    }  # fmt: skip
    return out, scales, constants


def quantize(x: Tensor, scale: Tensor | None, group: int | None) -> tuple[Tensor, Tensor]:
    """As `Kernels.quantize_fp8`."""
    out, scales, constants = _rounded(x, scale, group)
    _round_rows[(len(x),)](x, scales, out, scales, x.stride(0), **constants, **overlap(x))
    return out, scales


def add_norm(
    x: Tensor, residual: Tensor | None, norm: Tensor, eps: float, scale: Tensor | None, group: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `Kernels.add_norm_fp8`."""
    out, scales, constants = _rounded(x, scale, group)
    added = x if residual is None else residual
    total = x if residual is None else torch.empty_like(x, memory_format=torch.contiguous_format)
    _norm_and_round[(len(x),)](
        x, added, norm, scales, out, scales, total, x.stride(0), added.stride(0), eps,
        ADDS=residual is not None, **constants, **overlap(x),
    )  # fmt: skip
    return out, scales, total


def product(
    x: Tensor,
    rates: Tensor,
    weight: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
    bias: Tensor | None,
    block: Block | None,
    is_gated: bool = False,
) -> Tensor:
    """As `Kernels.product_fp8`, then `silu_mul` where it is gated."""
    count, size = x.shape
    rows = weight.shape[0] // 2 if is_gated else weight.shape[0]
    out = torch.empty((count, rows), dtype=dtype, device=x.device)
    rounded_up = max(16, triton.next_power_of_2(count))
    tokens, rows_each, step, parts, stages, warps = tile(rounded_up, weight.shape[0], size, block, is_gated)
    sums, arrivals = splits.room(out, parts)
    _product[(triton.cdiv(count, tokens), triton.cdiv(rows, rows_each), parts)](
        x, rates, weight, scale, rates if bias is None else bias, sums, arrivals, out, count,
        ROWS_OUT=rows, SIZE=size, TOKENS=tokens, ROWS=rows_each, STEP=step, SPLITS=parts, STAGES=stages,
        BLOCK_ROWS=0 if block is None else block[0], RATES=1 if len(rates) == count else 0,
        HAS_BIAS=bias is not None, GATED=is_gated, num_warps=warps, **overlap(x),
    )  # fmt: skip
    return out
