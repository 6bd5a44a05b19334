"""The noise of a draw: sgcore.noise to the last bit, in kernels that are launched with `ROUNDED`."""

from __future__ import annotations

import triton
import triton.language as tl

from sgcore import noise

ROUNDED = {"enable_fp_fusion": False}
"""Launch arguments: each product is rounded before anything is added to it."""
ROOT = tl.constexpr(noise.ROOT)
C0, C1, C2, C3, C4, C5, C6, C7, C8 = (tl.constexpr(factor) for factor in noise.LOGARITHM)
LN2_HIGH, LN2_LOW = tl.constexpr(noise.LN2_HIGH), tl.constexpr(noise.LN2_LOW)
SEED, POSITION, FIRST, SECOND = (
    tl.constexpr(value) for value in (noise.SEED, noise.POSITION, noise.FIRST, noise.SECOND)
)


@triton.jit
def _folded(z, BITS: tl.constexpr):
    return z ^ ((z >> BITS) & ((1 << (64 - BITS)) - 1))


@triton.jit
def row_key(seed, position):
    """Of a row, or of each, int64."""
    z = seed * SEED + (position + 1) * POSITION
    return _folded(_folded(_folded(z, 30) * FIRST, 27) * SECOND, 31)


@triton.jit
def _mixed(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _split(x):
    bits = x.to(tl.int32, bitcast=True) - ROOT
    return ((bits & 0x7FFFFF) + ROOT).to(tl.float32, bitcast=True) - 1.0, (bits >> 23).to(tl.float32)


@triton.jit
def _log(fraction, exponent):
    square = fraction * fraction
    series = fraction * C0 + C1
    series = series * fraction + C2
    series = series * fraction + C3
    series = series * fraction + C4
    series = series * fraction + C5
    series = series * fraction + C6
    series = series * fraction + C7
    series = series * fraction + C8
    rest = fraction * square * series + exponent * LN2_LOW - square * 0.5
    return fraction + rest + exponent * LN2_HIGH


@triton.jit
def gumbel(key, ids):
    low, high = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    bits = (_mixed(_mixed(ids.to(tl.uint32) ^ low) + high) >> 1).to(tl.int32)
    below, above = (bits.to(tl.float32) + 0.5) * 0.5**31, ((0x7FFFFFFF - bits).to(tl.float32) + 0.5) * 0.5**31
    is_small = below < 0.25
    fraction, exponent = _split(above)
    drawn = -_log(tl.where(is_small, -below, fraction), tl.where(is_small, 0.0, exponent))
    fraction, exponent = _split(drawn)
    return -_log(fraction, exponent)
