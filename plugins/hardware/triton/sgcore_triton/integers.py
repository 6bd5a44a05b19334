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
from sgcore_triton.norms import gated
from sgcore_triton.targets import has_ptx, runs_here

MOST_TOKENS = 128
"""With more, the weight is widened once and multiplied by the library."""
PROGRAMS = 512
"""With fewer tiles than these, `in` is split."""
WIDEST_TILE = 64
"""Tokens of a program."""
LONGEST_STEP = 128
STAGES = 3 if torch.version.hip else 4
"""Triton 3.6 can't compile 4 for gfx950."""
TILES: dict[tuple[int, int, int], tuple[int, int, int, int]] = {
    (8, 4096, 4096): (128, 8, 3, 8),
    (8, 4096, 14336): (128, 8, 3, 8),
    (8, 6144, 4096): (64, 8, 4, 4),
    (8, 28672, 4096): (128, 1, 4, 8),
    (16, 4096, 4096): (64, 4, 4, 2),
    (16, 4096, 14336): (128, 8, 3, 8),
    (16, 6144, 4096): (64, 2, 4, 2),
    (16, 28672, 4096): (64, 1, 4, 2),
    (64, 4096, 4096): (128, 4, 4, 8),
    (64, 4096, 14336): (128, 8, 3, 4),
    (64, 6144, 4096): (128, 4, 3, 4),
    (64, 28672, 4096): (64, 1, 3, 4),
}
"""(tokens rounded up, out, in) -> rows of the weight, parts of `in`, stages, warps; measured on one H100."""


def _bytes_asm(kind: str) -> tl.constexpr:
    """Four bytes (register 2) plus float32 numbers (3 to 6), as pairs of `kind` (0, 1).

    2^23 + byte is a float32 with the byte in its lowest bits.
    """
    return tl.constexpr(f"""
        {{
        .reg .f32 a, b, c, d;
        .reg .b32 magic;
        mov.b32 magic, 0x4B000000;
        prmt.b32 a, $2, magic, 0x7440;
        prmt.b32 b, $2, magic, 0x7441;
        prmt.b32 c, $2, magic, 0x7442;
        prmt.b32 d, $2, magic, 0x7443;
        add.f32 a, a, $3;
        add.f32 b, b, $4;
        add.f32 c, c, $5;
        add.f32 d, d, $6;
        cvt.rn.{kind}.f32 $0, b, a;
        cvt.rn.{kind}.f32 $1, d, c;
        }}
        """)


def _halves_asm(kind: str, exponent: int, one: int) -> tl.constexpr:
    """Low (registers 0, 1) and high halves (2, 3) of four bytes (4) plus numbers (5, 6), as pairs of `kind`.

    A float with the right exponent has a small integer in its lowest bits.
    """
    return tl.constexpr(f"""
        {{
        .reg .b32 high, one;
        mov.b32 one, {one * 0x10001};
        shr.u32 high, $4, 4;
        prmt.b32 $0, $4, 0, 0x4140;
        prmt.b32 $1, $4, 0, 0x4342;
        prmt.b32 $2, high, 0, 0x4140;
        prmt.b32 $3, high, 0, 0x4342;
        lop3.b32 $0, $0, 0x000F000F, {exponent * 0x10001}, 0xEA;
        lop3.b32 $1, $1, 0x000F000F, {exponent * 0x10001}, 0xEA;
        lop3.b32 $2, $2, 0x000F000F, {exponent * 0x10001}, 0xEA;
        lop3.b32 $3, $3, 0x000F000F, {exponent * 0x10001}, 0xEA;
        fma.rn.{kind} $0, $0, one, $5;
        fma.rn.{kind} $1, $1, one, $6;
        fma.rn.{kind} $2, $2, one, $5;
        fma.rn.{kind} $3, $3, one, $6;
        }}
        """)


BYTES_BF16, BYTES_FP16 = _bytes_asm("bf16x2"), _bytes_asm("f16x2")
BYTES_IN = tl.constexpr("=r,=r,r,r,r,r,r")
HALVES_BF16, HALVES_FP16 = _halves_asm("bf16x2", 0x4300, 0x3F80), _halves_asm("f16x2", 0x6400, 0x3C00)
HALVES_IN = tl.constexpr("=&r,=&r,=&r,=&r,r,r,r")


@triton.jit
def _bytes(packed, zero, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """Integers of 8 bits less `zero`, exact in any float type."""
    if ASM:
        minus = tl.broadcast_to(-(zero + 8388608), packed.shape)
        if tl.bfloat16 == DTYPE:
            return tl.inline_asm_elementwise(BYTES_BF16, BYTES_IN, [packed, minus], tl.bfloat16, is_pure=True, pack=4)
        else:
            return tl.inline_asm_elementwise(BYTES_FP16, BYTES_IN, [packed, minus], tl.float16, is_pure=True, pack=4)
    else:
        return (packed.to(tl.float32) - zero).to(DTYPE)


@triton.jit
def _halves(packed, zero, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """The low and the high 4 bits of each byte, less `zero`."""
    if ASM:
        if tl.bfloat16 == DTYPE:
            minus = tl.broadcast_to(-(zero + 128), packed.shape).to(tl.bfloat16)
            return tl.inline_asm_elementwise(
                HALVES_BF16, HALVES_IN, [packed, minus], (tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
            )
        else:
            minus = tl.broadcast_to(-(zero + 1024), packed.shape).to(tl.float16)
            return tl.inline_asm_elementwise(
                HALVES_FP16, HALVES_IN, [packed, minus], (tl.float16, tl.float16), is_pure=True, pack=4
            )
    else:
        return ((packed & 15).to(tl.float32) - zero).to(DTYPE), ((packed >> 4).to(tl.float32) - zero).to(DTYPE)


@triton.jit
def scale_and_zero(word):
    """float32 of `pack_scales`'s words."""
    return (word & -256).to(tl.float32, bitcast=True), (word & 255).to(tl.float32)


@triton.jit
def _inputs(at, is_token, BITS: tl.constexpr):
    """x for the low and for the high halves of bytes; the same for integers of 8 bits."""
    low = tl.load(at, mask=is_token, other=0.0)
    if BITS == 8:
        return low, low
    return low, tl.load(at + 16, mask=is_token, other=0.0)


@triton.jit
def _products(packed, word, x_low, x_high, BITS: tl.constexpr, ASM: tl.constexpr):
    """One step's products (ROWS, TOKENS) float32."""
    scale, zero = scale_and_zero(word)
    scale, zero = scale[:, None], zero[:, None]
    if BITS == 8:
        return tl.dot(_bytes(packed, zero, x_low.dtype, ASM), x_low) * scale
    low, high = _halves(packed, zero, x_low.dtype, ASM)
    return tl.dot(high, x_high, tl.dot(low, x_low)) * scale


@triton.jit(do_not_specialize=["tokens"])
def _grouped(
    x, weight, words, bias, sums, arrivals, out, x_stride, row_stride, group_stride, tokens,
    ROWS_OUT: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
    STEP: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr, BITS: tl.constexpr, HAS_BIAS: tl.constexpr,
    GATED: tl.constexpr, ASM: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (tokens, ROWS_OUT) for `ROWS` rows of the weight; see `splits` for sums and arrivals.

    `GATED`: the weight has as many rows again, and silu of the first half's product is multiplied by the second's.
    """
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
    up_at = at + tl.full((), ROWS_OUT, tl.int64) * (SIZE * BITS // 8)
    word_at = words + row * row_stride
    up_word_at = word_at + tl.full((), ROWS_OUT, tl.int64) * row_stride
    token = tl.program_id(2) * TOKENS + tl.arange(0, TOKENS)
    is_token = (token < tokens)[None, :]
    k = byte
    if BITS == 4:
        k = byte // 16 * 32 + byte % 16
    x_at = x + token[None, :] * x_stride + k[:, None]
    group = first * STEP // GROUP * group_stride
    packed, word = tl.load(at + first * width), tl.load(word_at + group)
    packed_up, word_up = packed, word
    if GATED:
        packed_up, word_up = tl.load(up_at + first * width), tl.load(up_word_at + group)
    wait_for_inputs(PDL)
    x_low, x_high = _inputs(x_at + first * STEP, is_token, BITS)
    products = _products(packed, word, x_low, x_high, BITS, ASM)
    others = products
    if GATED:
        others = _products(packed_up, word_up, x_low, x_high, BITS, ASM)
    for step in tl.range(first + 1, last, num_stages=STAGES):
        group = step * STEP // GROUP * group_stride
        packed, word = tl.load(at + step * width), tl.load(word_at + group)
        x_low, x_high = _inputs(x_at + step * STEP, is_token, BITS)
        products += _products(packed, word, x_low, x_high, BITS, ASM)
        if GATED:
            packed, word = tl.load(up_at + step * width), tl.load(up_word_at + group)
            others += _products(packed, word, x_low, x_high, BITS, ASM)
    inside = is_token & (n < ROWS_OUT)[:, None]
    at = token[None, :] * ROWS_OUT + n[:, None]
    if SPLITS > 1:
        tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
        products, is_last = splits.total(products, sums, arrivals, tile, part, at, tokens * ROWS_OUT, inside, SPLITS)
        inside = inside & is_last
    dtype: tl.constexpr = out.dtype.element_ty
    if HAS_BIAS:
        products += tl.load(bias + n, mask=n < ROWS_OUT, other=0.0).to(tl.float32)[:, None]
    if GATED:
        if HAS_BIAS:
            others += tl.load(bias + ROWS_OUT + n, mask=n < ROWS_OUT, other=0.0).to(tl.float32)[:, None]
        products = gated(products, others, dtype)
    tl.store(out + at, products.to(dtype), mask=inside)


@triton.jit
def _widen(
    weight, words, out, row_stride, group_stride,
    ROWS_OUT: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
    BITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out (ROWS_OUT, SIZE) in its own type."""
    n = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(0) * STEP
    byte = tl.arange(0, STEP * BITS // 8)
    row = tl.minimum(n, ROWS_OUT - 1).to(tl.int64)
    packed = tl.load(weight + row[:, None] * (SIZE * BITS // 8) + start * BITS // 8 + byte[None, :])
    scale, zero = scale_and_zero(tl.load(words + row * row_stride + start // GROUP * group_stride))
    scale, zero = scale[:, None], zero[:, None]
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


def tile(tokens: int, rows: int, size: int, step: int, is_gated: bool) -> tuple[int, int, int, int]:
    """Rows of the weight for a program, parts of `in`, stages of the pipeline, and warps.

    A gated product has one part: `_grouped` adds up parts of one of its two sums only.
    """
    known = TILES.get((tokens, rows, size))
    if known is not None and step == LONGEST_STEP and not (is_gated and known[1] > 1):
        return known
    rows_each, warps = (64, 4) if rows >= 1024 else (16, 1)
    parts = 1 if is_gated else splits.parts(triton.cdiv(rows, rows_each), size // step, PROGRAMS)
    return rows_each, parts, STAGES, warps


def pack_scales(scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
    """(out, groups) int32, a word for each scale and zero: the kernels can have words of 4 bytes loaded ahead.

    The zero takes the last 8 bits of the scale as float32, which no float of 16 bits needs.
    """
    middle = 1 << (bits - 1) if zeros is None else zeros.to(torch.int32)
    words = scales.float().contiguous().view(torch.int32) + 128 & -256 | middle
    return words.T.contiguous().T


def unpack_scales(words: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and zeros of `pack_scales`."""
    return (words & -256).contiguous().view(torch.float32), (words & 255).to(torch.uint8)


def has_words(zeros: Tensor | None) -> bool:
    """Whether `pack_scales` has room for these."""
    return zeros is None or zeros.dtype == torch.uint8


def takes(x: Tensor, words: Tensor) -> bool:
    """Whether the kernels here take this product, of scales that `pack_scales` made words of."""
    group = x.shape[1] // words.shape[1] if x.dim() == 2 and words.shape[1] else 0
    is_float = x.dtype in (torch.bfloat16, torch.float16)
    is_fit = x.shape[0] > 0 and x.stride(1) == 1 and group % PACK_BLOCK == 0
    return is_float and runs_here(x) and is_fit and words.dtype == torch.int32


def linear(x: Tensor, weight: Tensor, words: Tensor, bits: int, bias: Tensor | None, is_gated: bool = False) -> Tensor:
    """As `Kernels.linear_int`, for up to `MOST_TOKENS` tokens; then `silu_mul` where it is gated."""
    count, size = x.shape
    rows = weight.shape[0] // 2 if is_gated else weight.shape[0]
    group = size // words.shape[1]
    step = longest_step(group)
    tokens = max(8, triton.next_power_of_2(count))
    rows_each, parts, stages, warps = tile(tokens, weight.shape[0], size, step, is_gated)
    tokens = min(tokens, WIDEST_TILE)
    out = torch.empty((count, rows), dtype=x.dtype, device=x.device)
    sums, arrivals = splits.room(out, parts)
    _grouped[(triton.cdiv(rows, rows_each), parts, triton.cdiv(count, tokens))](
        x, weight, words, x if bias is None else bias, sums, arrivals, out,
        x.stride(0), words.stride(0), words.stride(1), count,
        ROWS_OUT=rows, SIZE=size, GROUP=group, TOKENS=tokens, ROWS=rows_each, STEP=step, SPLITS=parts, STAGES=stages,
        BITS=bits, HAS_BIAS=bias is not None, GATED=is_gated, ASM=has_ptx(x), num_warps=warps,
        **overlap(x),
    )  # fmt: skip
    return out


def widen(weight: Tensor, words: Tensor, bits: int, x: Tensor) -> Tensor:
    """The weight (out, in) in x's type. A kernel that starts before its predecessor ends must not read it."""
    rows, size = len(weight), x.shape[1]
    group = size // words.shape[1]
    step = longest_step(group)
    out = torch.empty((rows, size), dtype=x.dtype, device=x.device)
    _widen[(size // step, triton.cdiv(rows, 64))](
        weight, words, out, words.stride(0), words.stride(1),
        ROWS_OUT=rows, SIZE=size, GROUP=group, ROWS=64, STEP=step, BITS=bits, num_warps=4, **overlap(x),
    )  # fmt: skip
    return out
