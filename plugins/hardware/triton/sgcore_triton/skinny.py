"""Products of few tokens with a large weight, read once at the speed of memory.

A program owns a few rows of the weight. Its threads lie along `in`, 16 bytes each, and multiply in float32: with few
tokens there is too little arithmetic to be worth the matrix units. The first tile is loaded before the program waits
for its inputs, so that memory stays busy while the kernel before ends. A weight of 8-bit floats is multiplied by inputs
as they are, since to round them would take longer than it saves.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgcore.kernels import Block
from sgcore_triton.launch import overlap, wait_for_inputs
from sgcore_triton.norms import gated
from sgcore_triton.targets import FLOATS, has_float8

MOST_TOKENS = 2
"""With more, arithmetic takes longer than reading the weight: they go through the matrix units (`narrow`)."""

BLOCK_COLUMNS = 128
"""Of a block of the weight with a scale."""

Norm = tuple[Tensor, Tensor | None, float]
"""Its weight, the residual that is added first, and its eps."""

TILES: dict[tuple[int, int, int], tuple[int, int]] = {
    (1, 6144, 4096): (4, 4),
    (1, 4096, 4096): (4, 4),
    (1, 28672, 4096): (1, 4),
    (1, 4096, 14336): (4, 4),
    (1, 128256, 4096): (4, 8),
    (1, 4096, 1024): (8, 2),
    (1, 1024, 2048): (2, 4),
    (1, 6144, 1024): (2, 2),
    (1, 1024, 3072): (1, 8),
    (1, 151936, 1024): (8, 2),
    (2, 6144, 4096): (4, 4),
    (2, 4096, 4096): (4, 8),
    (2, 28672, 4096): (2, 2),
    (2, 4096, 14336): (8, 4),
    (2, 128256, 4096): (4, 4),
    (2, 4096, 1024): (4, 2),
    (2, 1024, 2048): (4, 8),
    (2, 6144, 1024): (2, 1),
    (2, 1024, 3072): (1, 4),
    (2, 151936, 1024): (4, 4),
}
"""(tokens rounded up to a power of two, out, in) -> rows of the weight for a program, warps; measured on one H100."""
TILES_FLOAT8: dict[tuple[int, int, int], tuple[int, int]] = {
    (1, 4096, 4096): (2, 2),
    (1, 4096, 14336): (2, 2),
    (1, 6144, 4096): (4, 4),
    (1, 28672, 4096): (2, 4),
    (2, 4096, 4096): (4, 8),
    (2, 4096, 14336): (4, 2),
    (2, 6144, 4096): (4, 4),
    (2, 28672, 4096): (4, 4),
}
"""The same for weights of 8 bits."""


@triton.jit
def _weights(at, k, SIZE: tl.constexpr, STEP: tl.constexpr):
    """A tile of the weight; each byte is read once, so it should not push anything out of the cache."""
    if SIZE % STEP == 0:
        return tl.load(at, eviction_policy="evict_first")
    return tl.load(at, mask=k < SIZE, other=0.0, eviction_policy="evict_first")


@triton.jit
def _scaled(sums, scale_at, lane, SIZE: tl.constexpr, BLOCKS: tl.constexpr):
    """A thread's sums, times the scale of their block where each has so many columns; a thread's numbers lie in one."""
    if BLOCKS:
        sums *= tl.sum(tl.load(scale_at + lane // BLOCKS, mask=lane < SIZE, other=0.0), 3)
    return sums


@triton.jit
def _multiply(
    products, others, squares, w, w_up, scale, block_at, up_block_at, x, residual, total, x_stride, residual_stride,
    tokens, lane, k, writes,
    SIZE: tl.constexpr, TOKENS: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, ADDS: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """Add one tile's products (GROUPS, TOKENS, ROWS); a thread keeps its own sums until the end."""
    index = tl.arange(0, TOKENS)[None, :, None]
    w = w.to(tl.float32)
    if GATED:
        w_up = w_up.to(tl.float32)
    for token in tl.static_range(TOKENS):
        inside = (k < SIZE) & (token < tokens)
        wide = tl.load(x + token * x_stride + k, mask=inside, other=0.0).to(tl.float32)
        if ADDS:
            wide += tl.load(residual + token * residual_stride + k, mask=inside, other=0.0).to(tl.float32)
            rounded = wide.to(total.dtype.element_ty)
            tl.store(total + token * SIZE + k, rounded, mask=inside & writes)
            wide = rounded.to(tl.float32)
        if NORMED:
            squares += tl.where(index == token, tl.sum(wide * wide, 3), 0.0)
            wide *= scale.to(tl.float32)
        # The index is known when compiling: each token adds to its own registers.
        products += tl.where(index == token, _scaled(tl.sum(w * wide, 3), block_at, lane, SIZE, BLOCKS), 0.0)
        if GATED:
            others += tl.where(index == token, _scaled(tl.sum(w_up * wide, 3), up_block_at, lane, SIZE, BLOCKS), 0.0)
    return products, others, squares


@triton.jit
def finish(products, rate, bias, n, ROWS_OUT: tl.constexpr, HAS_BIAS: tl.constexpr, DTYPE: tl.constexpr):
    """(TOKENS, ROWS) sums over all threads, scaled by the norm's rate and rounded once."""
    result = tl.sum(products, 0) * rate
    if HAS_BIAS:
        result += tl.load(bias + n, mask=n < ROWS_OUT, other=0.0).to(tl.float32)
    return result.to(DTYPE)


@triton.jit(do_not_specialize=["tokens", "eps"])
def _skinny(
    x, residual, norm, weight, scales, bias, out, total, x_stride, residual_stride, weight_stride, tokens, eps,
    ROWS_OUT: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
    VECTOR: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, ADDS: tl.constexpr, HAS_BIAS: tl.constexpr,
    SCALED: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCKS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (tokens, ROWS_OUT) for `ROWS` rows of the weight; tiles are (GROUPS, 1, ROWS, VECTOR).

    The norm's rate is a factor of the whole row, so it is applied to the sums: the input is read once. Where the weight
    is `SCALED`, it has a scale for each row, or for each block of `BLOCK_ROWS` rows and `BLOCKS` columns.
    """
    step: tl.constexpr = GROUPS * VECTOR
    last: tl.constexpr = (SIZE - 1) // step * step
    first = tl.program_id(0) * ROWS
    n = first + tl.arange(0, ROWS)[None, None, :, None]
    lane = tl.arange(0, GROUPS)[:, None, None, None] * VECTOR
    k = lane + tl.arange(0, VECTOR)[None, None, None, :]
    # Rows past the end read the last one again and aren't stored.
    # The stride comes in vectors, so that the compiler knows loads to be aligned.
    at = weight + tl.minimum(n, ROWS_OUT - 1).to(tl.int64) * (weight_stride * VECTOR) + k
    w = _weights(at, k, SIZE, step)
    w_up = w
    block_at, up_block_at = scales, scales
    if BLOCKS:
        block_columns: tl.constexpr = (SIZE + BLOCKS - 1) // BLOCKS
        block_at = scales + tl.minimum(n, ROWS_OUT - 1) // BLOCK_ROWS * block_columns
        up_block_at = scales + (tl.minimum(n, ROWS_OUT - 1) + ROWS_OUT) // BLOCK_ROWS * block_columns
    if GATED:
        up_at = at + tl.full((), ROWS_OUT, tl.int64) * (weight_stride * VECTOR)
        w_up = _weights(up_at, k, SIZE, step)
    scale = w
    if NORMED:
        scale = tl.load(norm + k, mask=k < SIZE, other=0.0)
    wait_for_inputs(PDL)
    products = tl.zeros((GROUPS, TOKENS, ROWS), tl.float32)
    others = tl.zeros((GROUPS, TOKENS, ROWS), tl.float32)
    squares = tl.zeros((GROUPS, TOKENS, 1), tl.float32)
    writes = tl.program_id(0) == 0
    for start in range(0, last, step):
        # The next tile is on its way while this one is multiplied.
        w_next = _weights(at + (start + step), k + (start + step), SIZE, step)
        w_up_next = w_next
        if GATED:
            w_up_next = _weights(up_at + (start + step), k + (start + step), SIZE, step)
        scale_next = w_next
        if NORMED:
            scale_next = tl.load(norm + (start + step) + k, mask=k + (start + step) < SIZE, other=0.0)
        products, others, squares = _multiply(
            products, others, squares, w, w_up, scale, block_at, up_block_at, x, residual, total, x_stride,
            residual_stride, tokens, lane + start, k + start, writes, SIZE, TOKENS, GATED, NORMED, ADDS, BLOCKS,
        )  # fmt: skip
        w, w_up, scale = w_next, w_up_next, scale_next
    products, others, squares = _multiply(
        products, others, squares, w, w_up, scale, block_at, up_block_at, x, residual, total, x_stride,
        residual_stride, tokens, lane + last, k + last, writes, SIZE, TOKENS, GATED, NORMED, ADDS, BLOCKS,
    )  # fmt: skip
    dtype: tl.constexpr = out.dtype.element_ty
    columns = first + tl.arange(0, ROWS)[None, :]
    rate = 1.0
    if NORMED:
        rate = tl.rsqrt(tl.sum(squares, 0) / SIZE + eps)
    up_rate = rate
    if SCALED and not BLOCKS:
        up_rate = rate * tl.load(scales + ROWS_OUT + columns, mask=GATED & (columns < ROWS_OUT), other=0.0)
        rate *= tl.load(scales + columns, mask=columns < ROWS_OUT, other=0.0)
    result = finish(products, rate, bias, columns, ROWS_OUT, HAS_BIAS, dtype)
    if GATED:
        result = gated(result, finish(others, up_rate, bias + ROWS_OUT, columns, ROWS_OUT, HAS_BIAS, dtype), dtype)
    token = tl.arange(0, TOKENS)[:, None]
    tl.store(out + token * ROWS_OUT + columns, result, mask=(token < tokens) & (columns < ROWS_OUT))


def tile(tokens: int, rows: int, size: int, item_bytes: int, is_gated: bool) -> tuple[int, int]:
    """Rows of the weight for a program, and its warps."""
    known = {1: TILES_FLOAT8, 2: TILES}.get(item_bytes, {}).get((tokens, rows, size))
    if known is not None:
        return known
    warps = min(4, max(1, triton.next_power_of_2(size * item_bytes // 512)))
    return (2 if is_gated else 4), warps


def is_skinny(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels here take this product."""
    return x.dtype == weight.dtype and _fits(x, weight)


def _fits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dim() == 2
        and 0 < x.shape[0] <= MOST_TOKENS
        and x.dtype in FLOATS
        and weight.layout == torch.strided
        and x.stride(1) == weight.stride(1) == 1
        and weight.stride(0) % (16 // weight.element_size()) == 0
    )


def takes_float8(x: Tensor, weight: Tensor, block: Block | None, norm: Norm | None = None) -> bool:
    """Whether the kernels here multiply by a weight of 8-bit floats."""
    is_fit = block is None or block[1] == BLOCK_COLUMNS
    return has_float8(x) and is_fit and _fits(x, weight) and (norm is None or _is_addable(x, norm[1]))


def norms_too(x: Tensor, residual: Tensor | None, weight: Tensor) -> bool:
    """Whether the norm should be part of the product."""
    return is_skinny(x, weight) and _is_addable(x, residual)


def _is_addable(x: Tensor, residual: Tensor | None) -> bool:
    return residual is None or (residual.dtype == x.dtype and residual.stride(1) == 1)


def multiply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Norm | None = None,
    is_gated: bool = False,
    scale: Tensor | None = None,
    block: Block | None = None,
) -> tuple[Tensor, Tensor]:
    """The product for up to `MOST_TOKENS` tokens, and the sum that was normed.

    With a norm as `Kernels.add_norm_linear`, gated as `add_norm_gated`: gate and up of one output come from the same
    program. The normed input isn't rounded before the product. A weight of 8-bit floats has a `scale` as in
    `Kernels.product_fp8`.
    """
    count, size = x.shape
    rows = weight.shape[0] // 2 if is_gated else weight.shape[0]
    norm_weight, residual, eps = norm or (x, None, 0.0)
    out = torch.empty((count, rows), dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty((count, size), dtype=x.dtype, device=x.device)
    tokens, item_bytes = triton.next_power_of_2(count), weight.element_size()
    rows_each, warps = tile(tokens, weight.shape[0], size, item_bytes, is_gated)
    added = x if residual is None else residual
    _skinny[(triton.cdiv(rows, rows_each),)](
        x, added, norm_weight, weight, x if scale is None else scale, x if bias is None else bias, out, total,
        x.stride(0), added.stride(0), weight.stride(0) * item_bytes // 16, count, eps,
        ROWS_OUT=rows, SIZE=size, TOKENS=tokens, ROWS=rows_each, GROUPS=32 * warps, VECTOR=16 // item_bytes,
        GATED=is_gated, NORMED=norm is not None, ADDS=residual is not None, HAS_BIAS=bias is not None,
        SCALED=scale is not None, BLOCK_ROWS=block[0] if block else 0, BLOCKS=block[1] if block else 0,
        num_warps=warps, **overlap(x),
    )  # fmt: skip
    return out, total
