"""Products with weights of 4 or 8 bits in groups: the integers become floats in registers.

As in `narrow`, a tile has rows of the weight where a product of many tokens has tokens. A step along `in` lies within
one group, so that its scale is a factor of the step's sum and the matrix units multiply exact integers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgcore.kernels import PACK_BLOCK
from sgcore_triton import splits
from sgcore_triton.launch import overlap, wait_for_inputs
from sgcore_triton.targets import runs_here

MOST_TOKENS = 64
"""With more, the weight is widened once and multiplied by the library."""
LONGEST_STEP = 128
STAGES = 3 if torch.version.hip else 4
"""Triton 3.6 can't compile 4 for gfx950."""


@triton.jit
def _centred(numbers, zero, DTYPE: tl.constexpr):
    """Integers below 256 less `zero`, exact in any float type.

    16-bit floats with the right exponent have small integers in their lowest bits, which saves the conversion; bfloat16
    has room for 7 bits.
    """
    if tl.float16 == DTYPE:
        return (numbers.to(tl.uint16) | 0x6400).to(DTYPE, bitcast=True) - (zero + 1024).to(DTYPE)
    return (numbers.to(tl.float32) - zero).to(DTYPE)


@triton.jit
def _centred_small(numbers, zero, DTYPE: tl.constexpr):
    """As `_centred`, for integers below 16."""
    if tl.bfloat16 == DTYPE:
        return (numbers.to(tl.uint16) | 0x4300).to(DTYPE, bitcast=True) - (zero + 128).to(DTYPE)
    return _centred(numbers, zero, DTYPE)


@triton.jit
def _zero(zeros, at, HAS_ZEROS: tl.constexpr, BITS: tl.constexpr):
    """(ROWS, 1) float32: what stands for 0."""
    if HAS_ZEROS:
        return tl.load(zeros + at).to(tl.float32)[:, None]
    return tl.full(at.shape, 1 << (BITS - 1), tl.float32)[:, None]


@triton.jit
def _multiply(packed, scale, zero, x_at, is_token, STEP: tl.constexpr, BITS: tl.constexpr):
    """One step's products (ROWS, TOKENS) float32."""
    dtype: tl.constexpr = x_at.dtype.element_ty.element_ty if x_at.dtype.is_block() else x_at.dtype.element_ty
    if BITS == 8:
        return tl.dot(_centred(packed, zero, dtype), tl.load(x_at, mask=is_token, other=0.0)) * scale[:, None]
    low = _centred_small(packed & 15, zero, dtype)
    products = tl.dot(low, tl.load(x_at, mask=is_token, other=0.0))
    high = _centred_small(packed >> 4, zero, dtype)
    return tl.dot(high, tl.load(x_at + 16, mask=is_token, other=0.0), products) * scale[:, None]


@triton.jit(do_not_specialize=["tokens"])
def _grouped(
    x, weight, scales, zeros, bias, out, x_stride, scale_stride, group_stride, tokens,
    ROWS_OUT: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
    STEP: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr, BITS: tl.constexpr, HAS_ZEROS: tl.constexpr,
    HAS_BIAS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (tokens, ROWS_OUT), or sums (SPLITS, tokens, ROWS_OUT) float32, for `ROWS` rows of the weight."""
    each: tl.constexpr = (SIZE // STEP + SPLITS - 1) // SPLITS
    width: tl.constexpr = STEP * BITS // 8
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    first = part * each
    last = tl.minimum(first + each, SIZE // STEP)
    byte = tl.arange(0, width)
    # Rows past the end read the last one again and aren't stored.
    row = tl.minimum(n, ROWS_OUT - 1).to(tl.int64)
    at = weight + row[:, None] * (SIZE * BITS // 8) + byte[None, :]
    scale_at = row * scale_stride
    token = tl.arange(0, TOKENS)
    is_token = (token < tokens)[None, :]
    k = byte
    if BITS == 4:
        k = byte // 16 * 32 + byte % 16
    x_at = x + token[None, :] * x_stride + k[:, None]
    group = first * STEP // GROUP * group_stride
    packed = tl.load(at + first * width)
    scale = tl.load(scales + scale_at + group).to(tl.float32)
    zero = _zero(zeros, scale_at + group, HAS_ZEROS, BITS)
    wait_for_inputs(PDL)
    products = _multiply(packed, scale, zero, x_at + first * STEP, is_token, STEP, BITS)
    for step in tl.range(first + 1, last, num_stages=STAGES):
        group = step * STEP // GROUP * group_stride
        scale = tl.load(scales + scale_at + group).to(tl.float32)
        zero = _zero(zeros, scale_at + group, HAS_ZEROS, BITS)
        packed = tl.load(at + step * width)
        products += _multiply(packed, scale, zero, x_at + step * STEP, is_token, STEP, BITS)
    inside = is_token & (n < ROWS_OUT)[:, None]
    if HAS_BIAS:
        products += tl.load(bias + n, mask=n < ROWS_OUT, other=0.0).to(tl.float32)[:, None]
    place = (part * tokens + token)[None, :] * ROWS_OUT + n[:, None]
    tl.store(out + place, products.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _widen(
    weight, scales, zeros, out, scale_stride, group_stride,
    ROWS_OUT: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
    BITS: tl.constexpr, HAS_ZEROS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (ROWS_OUT, SIZE) in its own type."""
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(0) * STEP
    byte = tl.arange(0, STEP * BITS // 8)
    row = tl.minimum(n, ROWS_OUT - 1).to(tl.int64)
    packed = tl.load(weight + row[:, None] * (SIZE * BITS // 8) + start * BITS // 8 + byte[None, :])
    group = row * scale_stride + start // GROUP * group_stride
    scale = tl.load(scales + group).to(tl.float32)[:, None]
    zero = _zero(zeros, group, HAS_ZEROS, BITS)
    dtype: tl.constexpr = out.dtype.element_ty
    inside = (n < ROWS_OUT)[:, None]
    out_at = out + row[:, None] * SIZE + start
    wait_for_inputs(PDL)
    if BITS == 8:
        tl.store(out_at + byte[None, :], ((packed.to(tl.float32) - zero) * scale).to(dtype), mask=inside)
    else:
        k = (byte // 16 * 32 + byte % 16)[None, :]
        tl.store(out_at + k, (((packed & 15).to(tl.float32) - zero) * scale).to(dtype), mask=inside)
        tl.store(out_at + k + 16, (((packed >> 4).to(tl.float32) - zero) * scale).to(dtype), mask=inside)


def longest_step(group: int) -> int:
    """The longest step along `in` that lies within a group."""
    return next(step for step in (LONGEST_STEP, 64, PACK_BLOCK) if group % step == 0)


def tile(rows: int, steps: int) -> tuple[int, int, int, int]:
    """Rows of the weight for a program, parts of `in`, stages of the pipeline, and warps."""
    rows_each = 64 if rows >= 1024 else 16
    return rows_each, splits.parts(triton.cdiv(rows, rows_each), steps), STAGES, 4 if rows_each == 64 else 1


def takes(x: Tensor, scales: Tensor) -> bool:
    """Whether the kernels here take this product."""
    groups = x.shape[1] // scales.shape[1] if x.dim() == 2 and scales.shape[1] else 0
    is_float = x.dtype in (torch.bfloat16, torch.float16)
    return is_float and runs_here(x) and x.shape[0] > 0 and x.stride(1) == 1 and groups % PACK_BLOCK == 0


def linear(x: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, bias: Tensor | None) -> Tensor:
    """As `Kernels.linear_int`, for up to `MOST_TOKENS` tokens."""
    (count, size), rows = x.shape, weight.shape[0]
    group = size // scales.shape[1]
    step = longest_step(group)
    tokens = max(16, triton.next_power_of_2(count))
    rows_each, parts, stages, warps = tile(rows, size // step)
    out = torch.empty((count, rows), dtype=x.dtype, device=x.device)
    sums = splits.sums_for(out, parts)
    _grouped[(triton.cdiv(rows, rows_each), parts)](
        x, weight, scales, scales if zeros is None else zeros, x if bias is None else bias, sums,
        x.stride(0), scales.stride(0), scales.stride(1), count,
        ROWS_OUT=rows, SIZE=size, GROUP=group, TOKENS=tokens, ROWS=rows_each, STEP=step, SPLITS=parts, STAGES=stages,
        BITS=bits, HAS_ZEROS=zeros is not None, HAS_BIAS=bias is not None and parts == 1, num_warps=warps,
        **overlap(x),
    )  # fmt: skip
    return splits.add(sums, bias, out)


def widen(weight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, x: Tensor) -> Tensor:
    """The weight (out, in) in x's type. A kernel that starts before its predecessor ends must not read it."""
    rows, size = len(weight), x.shape[1]
    group = size // scales.shape[1]
    step = longest_step(group)
    out = torch.empty((rows, size), dtype=x.dtype, device=x.device)
    _widen[(size // step, triton.cdiv(rows, 64))](
        weight, scales, scales if zeros is None else zeros, out, scales.stride(0), scales.stride(1),
        ROWS_OUT=rows, SIZE=size, GROUP=group, ROWS=64, STEP=step, BITS=bits, HAS_ZEROS=zeros is not None, num_warps=4,
        **overlap(x),
    )  # fmt: skip
    return out
