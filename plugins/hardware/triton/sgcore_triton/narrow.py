"""Products of a few more tokens: one pass over the weight through the matrix units.

A tile has rows of the weight where a product of many tokens has tokens, so that 3 tokens waste no more than 8 do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgcore_triton.launch import overlap, wait_for_inputs
from sgcore_triton.norms import gated
from sgcore_triton.targets import has_dependent_launch, interprets

MOST_TOKENS = 32
MOST_TOKENS_OF_A_DEEP_WEIGHT = 16
"""Of a weight with no more rows than columns; with 32 tokens the library splits `in`, which is faster."""

TILES: dict[tuple[int, int, int], tuple[int, int, int, int]] = {
    (8, 6144, 4096): (32, 128, 4, 2),
    (8, 4096, 4096): (32, 256, 3, 2),
    (8, 28672, 4096): (64, 256, 3, 4),
    (8, 4096, 14336): (16, 256, 4, 1),
    (8, 128256, 4096): (16, 128, 6, 1),
    (8, 4096, 1024): (32, 128, 4, 2),
    (8, 1024, 2048): (16, 256, 4, 2),
    (8, 6144, 1024): (32, 128, 4, 2),
    (8, 1024, 3072): (16, 256, 4, 2),
    (8, 151936, 1024): (32, 256, 3, 2),
    (16, 6144, 4096): (64, 256, 3, 4),
    (16, 4096, 4096): (64, 256, 3, 4),
    (16, 28672, 4096): (64, 128, 4, 4),
    (16, 4096, 14336): (16, 256, 4, 2),
    (16, 128256, 4096): (64, 128, 4, 4),
    (16, 4096, 1024): (64, 256, 3, 4),
    (16, 1024, 2048): (16, 256, 4, 2),
    (16, 6144, 1024): (64, 64, 6, 4),
    (16, 1024, 3072): (16, 256, 4, 2),
    (16, 151936, 1024): (64, 128, 4, 4),
    (32, 6144, 4096): (64, 256, 3, 4),
    (32, 28672, 4096): (64, 128, 4, 4),
    (32, 128256, 4096): (32, 256, 3, 4),
    (32, 4096, 1024): (64, 128, 4, 4),
    (32, 6144, 1024): (16, 256, 4, 2),
    (32, 151936, 1024): (32, 128, 4, 2),
}
"""(tokens rounded up, out, in) -> rows of the weight, step along `in`, stages, warps; measured on one H100."""


@triton.jit
def _tile(at, k, inside, SIZE: tl.constexpr, STEP: tl.constexpr):
    if SIZE % STEP == 0:
        return tl.load(at, mask=inside, other=0.0)
    return tl.load(at, mask=inside & (k < SIZE), other=0.0)


@triton.jit(do_not_specialize=["tokens"])
def _narrow(
    x, weight, bias, out, x_stride, weight_stride, tokens,
    ROWS_OUT: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
    VECTOR: tl.constexpr, STAGES: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (tokens, ROWS_OUT) for `ROWS` rows of the weight, which are the rows of the matrix units' tiles."""
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, STEP)
    token = tl.arange(0, TOKENS)
    is_token = (token < tokens)[None, :]
    at = weight + tl.minimum(n, ROWS_OUT - 1).to(tl.int64)[:, None] * (weight_stride * VECTOR) + k[None, :]
    up_at = at + tl.full((), ROWS_OUT, tl.int64) * (weight_stride * VECTOR)
    x_at = x + token[None, :] * x_stride + k[:, None]
    everywhere = n[:, None] >= 0
    w = _tile(at, k[None, :], everywhere, SIZE, STEP)
    if GATED:
        w_up = _tile(up_at, k[None, :], everywhere, SIZE, STEP)
    wait_for_inputs(PDL)
    wide = _tile(x_at, k[:, None], is_token, SIZE, STEP)
    products = tl.dot(w, wide)
    others = products
    if GATED:
        others = tl.dot(w_up, wide)
    for start in tl.range(STEP, SIZE, STEP, num_stages=STAGES):
        wide = _tile(x_at + start, k[:, None] + start, is_token, SIZE, STEP)
        products = tl.dot(_tile(at + start, k[None, :] + start, everywhere, SIZE, STEP), wide, products)
        if GATED:
            others = tl.dot(_tile(up_at + start, k[None, :] + start, everywhere, SIZE, STEP), wide, others)
    inside = n < ROWS_OUT
    dtype: tl.constexpr = out.dtype.element_ty
    if HAS_BIAS:
        products += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)[:, None]
    if GATED:
        if HAS_BIAS:
            others += tl.load(bias + ROWS_OUT + n, mask=inside, other=0.0).to(tl.float32)[:, None]
        products = gated(products, others, dtype)
    tl.store(out + token[None, :] * ROWS_OUT + n[:, None], products.to(dtype), mask=is_token & inside[:, None])


def tile(tokens: int, rows: int, size: int, is_gated: bool) -> tuple[int, int, int, int]:
    """Rows of the weight for a program, its step along `in`, stages of the pipeline, and warps."""
    known = TILES.get((tokens, rows, size))
    if known is not None:
        return known
    if tokens > 8:
        return (64, 128, 4, 4) if rows >= 4096 else (16, 256, 4, 2)
    return (32, 128, 4, 2) if size <= 1024 else (16, 256, 4, 2 if is_gated else 1)


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes this product; its tiles want the shared memory of an sm_90."""
    most = MOST_TOKENS if weight.shape[0] > weight.shape[1] else MOST_TOKENS_OF_A_DEEP_WEIGHT
    return (
        x.dim() == 2
        and 0 < x.shape[0] <= most
        and x.dtype == weight.dtype
        and x.dtype in (torch.bfloat16, torch.float16)
        and weight.layout == torch.strided
        and x.stride(1) == weight.stride(1) == 1
        and weight.stride(0) % 8 == 0
        and (has_dependent_launch(x) or interprets())
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, is_gated: bool = False) -> Tensor:
    """As `Kernels.linear`, then `silu_mul` where it is gated."""
    count, size = x.shape
    rows = weight.shape[0] // 2 if is_gated else weight.shape[0]
    out = torch.empty((count, rows), dtype=x.dtype, device=x.device)
    tokens = max(8, triton.next_power_of_2(count))
    rows_each, step, stages, warps = tile(tokens, weight.shape[0], size, is_gated)
    _narrow[(triton.cdiv(rows, rows_each),)](
        x, weight, x if bias is None else bias, out, x.stride(0), weight.stride(0) * x.element_size() // 16, count,
        ROWS_OUT=rows, SIZE=size, TOKENS=tokens, ROWS=rows_each, STEP=step, VECTOR=16 // x.element_size(),
        STAGES=stages, GATED=is_gated, HAS_BIAS=bias is not None, num_warps=warps, **overlap(x),
    )  # fmt: skip
    return out
