"""`skinny` for weights of 4 or 8 bits in groups: the integers are multiplied as they lie in the weight's words.

An integer among the lower bits of a float's mantissa, under the right exponent, is that float plus the integer. So a
number takes one instruction to extract and one to multiply; what was added comes off the sum of a group, with the zero.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgcore_triton.integers import scale_and_zero
from sgcore_triton.launch import overlap, wait_for_inputs
from sgcore_triton.norms import gated
from sgcore_triton.skinny import MOST_TOKENS, Norm, finish
from sgcore_triton.targets import has_ptx

WORDS = 2
"""Of a weight for a thread; with more, Triton would have other threads load the inputs."""
WORDS_EACH = tl.constexpr(WORDS)
ADD_BF16, ADD_FP16 = (tl.constexpr(f"fma.rn.{kind}x2 $0, $1, $2, $3;") for kind in ("bf16", "f16"))
TILES: dict[tuple[int, int, int, int], tuple[int, int]] = {
    (4, 1, 4096, 4096): (8, 8),
    (4, 1, 4096, 14336): (8, 4),
    (4, 1, 6144, 4096): (8, 4),
    (4, 1, 28672, 4096): (4, 2),
    (4, 2, 4096, 4096): (8, 2),
    (4, 2, 4096, 14336): (4, 4),
    (4, 2, 6144, 4096): (8, 4),
    (4, 2, 28672, 4096): (8, 2),
    (8, 1, 4096, 4096): (8, 4),
    (8, 1, 4096, 14336): (4, 4),
    (8, 1, 6144, 4096): (4, 4),
    (8, 1, 28672, 4096): (2, 2),
    (8, 2, 4096, 4096): (4, 4),
    (8, 2, 4096, 14336): (4, 8),
    (8, 2, 6144, 4096): (4, 4),
    (8, 2, 28672, 4096): (4, 2),
}
"""(bits, tokens rounded up to a power of two, out, in) -> rows of the weight for a program, warps."""


@triton.jit
def _number(words, PLACE: tl.constexpr, BITS: tl.constexpr, ASM: tl.constexpr):
    """The integer at `PLACE` of each word, as float32, plus `_offset`."""
    if BITS == 8:
        return _with_exponent(_shifted(words, 8 * PLACE - 15), 0x7F8000, 0x43800000, ASM)
    # Three shifts bring all eight to two places in a mantissa.
    if PLACE % 7:
        moved = _shifted(words, (PLACE + 1) // 2 * 8 - 16)
    else:
        moved = (words << 16) | ((words >> 16) & 0xFFFF)
    if PLACE % 2:
        return _with_exponent(moved, 0xF000, 0x45000000, ASM)
    return _with_exponent(moved, 0xF0000, 0x43000000, ASM)


@triton.jit
def _with_exponent(words, MASK: tl.constexpr, EXPONENT: tl.constexpr, ASM: tl.constexpr):
    """One instruction, which the assembler doesn't find by itself."""
    if ASM:
        mask, exponent = tl.full((1,), MASK, tl.int32), tl.full((1,), EXPONENT, tl.int32)
        return tl.inline_asm_elementwise(
            "lop3.b32 $0, $1, $2, $3, 0xEA;", "=r,r,r,r", [words, mask, exponent], tl.float32, is_pure=True, pack=1
        )
    return ((words & MASK) | EXPONENT).to(tl.float32, bitcast=True)


@triton.jit
def _shifted(words, BITS: tl.constexpr):
    if BITS < 0:
        return words << -BITS
    return words >> BITS


@triton.jit
def _offset(HALF: tl.constexpr, BITS: tl.constexpr) -> tl.constexpr:
    """A float with the exponent that `_number` sets."""
    if BITS == 8:
        return 256.0
    if HALF:
        return 2048.0
    return 128.0


@triton.jit
def _pair(words, PLACE: tl.constexpr):
    """Two of the four 16-bit floats in each int64, as int32."""
    if PLACE:
        return (words >> 32).to(tl.int32)
    return words.to(tl.int32)


@triton.jit
def _float(pair, PLACE: tl.constexpr, DTYPE: tl.constexpr):
    """One of a pair in float32."""
    if tl.bfloat16 == DTYPE:  # half of a float32
        return (pair & -65536 if PLACE else pair << 16).to(tl.float32, bitcast=True)
    return _shifted(pair, 16 * PLACE).to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)


@triton.jit
def _add(pair, other, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """Sums of pairs, rounded."""
    if ASM:
        one = tl.full((1,), 0x3F803F80 if tl.bfloat16 == DTYPE else 0x3C003C00, tl.int32)
        asm: tl.constexpr = ADD_BF16 if tl.bfloat16 == DTYPE else ADD_FP16
        return tl.inline_asm_elementwise(asm, "=r,r,r,r", [pair, one, other], tl.int32, is_pure=True, pack=1)
    low = (_float(pair, 0, DTYPE) + _float(other, 0, DTYPE)).to(DTYPE).to(tl.int16, bitcast=True).to(tl.int32)
    high = (_float(pair, 1, DTYPE) + _float(other, 1, DTYPE)).to(DTYPE).to(tl.int16, bitcast=True).to(tl.int32)
    return high << 16 | (low & 0xFFFF)


@triton.jit
def _tile(
    at, up_at, scales_at, up_scales_at, thread, start, group_stride,
    SIZE: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, GATED: tl.constexpr,
):  # fmt: skip
    """The words of a weight from column `start` on and their scales; whether each thread has any.

    Each byte of a weight is read once, so it should not push anything out of the cache.
    """
    k = thread * (WORDS_EACH * 32 // BITS) + start
    inside = k < SIZE
    group = k // GROUP * group_stride
    begin = start * BITS // 32
    w = tl.load(at + begin, mask=inside, other=0, eviction_policy="evict_first")
    scales = tl.load(scales_at + group, mask=inside, other=0)
    w_up, scales_up = w, scales
    if GATED:
        w_up = tl.load(up_at + begin, mask=inside, other=0, eviction_policy="evict_first")
        scales_up = tl.load(up_scales_at + group, mask=inside, other=0)
    return w, w_up, scales, scales_up, inside


@triton.jit
def _multiply(
    products, others, squares, w, w_up, scales, scales_up, norm, x, residual, x_at, residual_at, at, is_read, inside,
    BITS: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, ADDS: tl.constexpr, DTYPE: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Add one tile's products (THREADS, TOKENS, ROWS); a thread keeps its own sums until the end."""
    halves: tl.constexpr = 8 // BITS
    sums = tl.zeros_like(w).to(tl.float32)
    sums_up = sums
    plain = tl.zeros_like(at).to(tl.float32)
    offsets = plain
    for half in tl.static_range(halves):
        x_words = tl.load(x + x_at + at + 4 * half, mask=is_read, other=0)
        residual_words = x_words
        if ADDS:
            residual_words = tl.load(residual + residual_at + at + 4 * half, mask=is_read, other=0)
        norm_words = x_words
        if NORMED:
            norm_words = tl.load(norm + at + 4 * half, mask=inside, other=0)
        part = tl.zeros_like(x_words).to(tl.float32)
        for place in tl.static_range(4):
            pair = _pair(x_words, place // 2)
            if ADDS:
                pair = _add(pair, _pair(residual_words, place // 2), DTYPE, ASM)
            wide = _float(pair, place % 2, DTYPE)
            if NORMED:
                squares += wide * wide
                wide *= _float(_pair(norm_words, place // 2), place % 2, DTYPE)
            part += wide
            sums += _number(w, place * halves + half, BITS, ASM) * wide
            if GATED:
                sums_up += _number(w_up, place * halves + half, BITS, ASM) * wide
        plain += part
        offsets += part * _offset(half, BITS)
    plain_sum, offset = tl.sum(plain, 3), tl.sum(offsets, 3)
    scale, zero = scale_and_zero(tl.sum(scales, 3))
    products += scale * (tl.sum(sums, 3) - offset - zero * plain_sum)
    if GATED:
        scale, zero = scale_and_zero(tl.sum(scales_up, 3))
        others += scale * (tl.sum(sums_up, 3) - offset - zero * plain_sum)
    return products, others, squares


@triton.jit
def _store_sum(
    x, residual, total, x_stride, residual_stride, tokens, SIZE: tl.constexpr, TOKENS: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """total (tokens, SIZE) = x + residual."""
    for token in tl.static_range(TOKENS):
        for start in range(0, SIZE, STEP):
            k = start + tl.arange(0, STEP)
            inside = (k < SIZE) & (token < tokens)
            wide = tl.load(x + token * x_stride + k, mask=inside, other=0.0).to(tl.float32)
            wide += tl.load(residual + token * residual_stride + k, mask=inside, other=0.0).to(tl.float32)
            tl.store(total + token * SIZE + k, wide.to(total.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens", "eps"])
def _skinny_int(
    x, residual, norm, x_words, residual_words, norm_words, weight, words, bias, out, total,
    x_stride, residual_stride, row_stride, group_stride, tokens, eps,
    ROWS_OUT: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, TOKENS: tl.constexpr,
    ROWS: tl.constexpr, THREADS: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, ADDS: tl.constexpr,
    HAS_BIAS: tl.constexpr, ASM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (tokens, ROWS_OUT) for `ROWS` rows of the weight; tiles are (THREADS, 1, ROWS, words of a thread).

    weight (rows, words) int32; x, residual and norm again as int64, four numbers each. The strides of x and of the
    residual are in these.
    """
    columns: tl.constexpr = WORDS_EACH * 32 // BITS
    step: tl.constexpr = THREADS * columns
    last: tl.constexpr = (SIZE - 1) // step * step
    width: tl.constexpr = SIZE * BITS // 32
    first = tl.program_id(0) * ROWS
    n = first + tl.arange(0, ROWS)[None, None, :, None]
    thread = tl.arange(0, THREADS)[:, None, None, None]
    word = tl.arange(0, WORDS_EACH)[None, None, None, :]
    row = n.to(tl.int64)
    if ROWS_OUT % ROWS:
        # Rows past the end read the last one again and aren't stored.
        row = tl.minimum(row, ROWS_OUT - 1)
    at = weight + row * width + thread * WORDS_EACH + word
    up_at = at + tl.full((), ROWS_OUT, tl.int64) * width
    if ROWS > 4:
        # What four lie behind one another would go to other threads than the weight.
        row = tl.max_contiguous(row, [1, 1, 1, 1])
    scales_at = words + row * row_stride
    up_scales_at = scales_at + tl.full((), ROWS_OUT, tl.int64) * row_stride
    quad = thread * 2 + word
    if BITS == 4:
        quad = thread // 2 * 8 + thread % 2 * 2 + word
    token = tl.arange(0, TOKENS)[None, :, None, None]
    is_token = token < tokens
    x_at, residual_at = token * x_stride, token * residual_stride
    dtype: tl.constexpr = out.dtype.element_ty
    w, w_up, scales, scales_up, inside = _tile(
        at, up_at, scales_at, up_scales_at, thread, 0, group_stride, SIZE, GROUP, BITS, GATED
    )
    wait_for_inputs(PDL)
    products = tl.zeros((THREADS, TOKENS, ROWS), tl.float32)
    others = tl.zeros((THREADS, TOKENS, ROWS), tl.float32)
    squares = tl.zeros((THREADS, TOKENS, 1, WORDS_EACH), tl.float32)
    for start in range(0, last, step):
        # The next tile is on its way while this one is multiplied.
        w_next, w_up_next, scales_next, scales_up_next, inside_next = _tile(
            at, up_at, scales_at, up_scales_at, thread, start + step, group_stride, SIZE, GROUP, BITS, GATED
        )
        products, others, squares = _multiply(
            products, others, squares, w, w_up, scales, scales_up, norm_words, x_words, residual_words,
            x_at, residual_at, quad + start // 4, is_token & inside, inside, BITS, GATED, NORMED, ADDS, dtype, ASM,
        )  # fmt: skip
        w, w_up, scales, scales_up, inside = w_next, w_up_next, scales_next, scales_up_next, inside_next
    products, others, squares = _multiply(
        products, others, squares, w, w_up, scales, scales_up, norm_words, x_words, residual_words,
        x_at, residual_at, quad + last // 4, is_token & inside, inside, BITS, GATED, NORMED, ADDS, dtype, ASM,
    )  # fmt: skip
    if ADDS:  # noqa: SIM102 - one is known when compiling
        if tl.program_id(0) == 0:
            _store_sum(x, residual, total, x_stride * 4, residual_stride * 4, tokens, SIZE, TOKENS, THREADS * 8)
    place = first + tl.arange(0, ROWS)[None, :]
    rate = 1.0
    if NORMED:
        rate = tl.rsqrt(tl.sum(tl.sum(squares, 3), 0) / SIZE + eps)
    result = finish(products, rate, bias, place, ROWS_OUT, HAS_BIAS, dtype)
    if GATED:
        result = gated(result, finish(others, rate, bias + ROWS_OUT, place, ROWS_OUT, HAS_BIAS, dtype), dtype)
    token = tl.arange(0, TOKENS)[:, None]
    tl.store(out + token * ROWS_OUT + place, result, mask=(token < tokens) & (place < ROWS_OUT))


def tile(bits: int, tokens: int, rows: int, size: int, is_gated: bool) -> tuple[int, int]:
    """Rows of the weight for a program, and its warps."""
    known = TILES.get((bits, tokens, rows, size))
    if known is not None:
        return known
    threads = size * bits // (32 * WORDS)
    return (2 if is_gated or tokens > 1 else 4), min(4, max(1, triton.next_power_of_2(threads) // 32))


def takes(x: Tensor, norm: Norm | None = None) -> bool:
    """Whether the kernel here takes an input that `integers` takes."""
    weight, residual, _ = norm or (x, None, 0.0)
    given = [one for one in (x, residual) if one is not None]
    return x.shape[0] <= MOST_TOKENS and weight.dtype == x.dtype and all(_is_aligned(one, x.dtype) for one in given)


def _is_aligned(x: Tensor, dtype: torch.dtype) -> bool:
    return x.dtype == dtype and x.stride(1) == 1 and x.stride(0) % 4 == 0 and x.storage_offset() % 4 == 0


def multiply(
    x: Tensor,
    weight: Tensor,
    words: Tensor,
    bits: int,
    bias: Tensor | None,
    norm: Norm | None = None,
    is_gated: bool = False,
) -> tuple[Tensor, Tensor]:
    """As `skinny.multiply`, for the weights of `Kernels.linear_int`; see `takes`."""
    count, size = x.shape
    rows = weight.shape[0] // 2 if is_gated else weight.shape[0]
    scale, residual, eps = norm or (x, None, 0.0)
    out = torch.empty((count, rows), dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty((count, size), dtype=x.dtype, device=x.device)
    added = x if residual is None else residual
    tokens = triton.next_power_of_2(count)
    rows_each, warps = tile(bits, tokens, weight.shape[0], size, is_gated)
    _skinny_int[(triton.cdiv(rows, rows_each),)](
        x, added, scale, x.view(torch.int64), added.view(torch.int64), scale.view(torch.int64),
        weight.view(torch.int32), words, x if bias is None else bias, out, total,
        x.stride(0) // 4, added.stride(0) // 4, words.stride(0), words.stride(1), count, eps,
        ROWS_OUT=rows, SIZE=size, GROUP=size // words.shape[1], BITS=bits, TOKENS=tokens, ROWS=rows_each,
        THREADS=32 * warps, GATED=is_gated, NORMED=norm is not None, ADDS=residual is not None,
        HAS_BIAS=bias is not None, ASM=has_ptx(x), num_warps=warps, **overlap(x),
    )  # fmt: skip
    return out, total
