"""The noise of a draw: a Gumbel number for each token of a vocabulary, from a row's seed, the position and the token.

The most probable token after such numbers are added to the logits is a draw from their distribution (the Gumbel-max
trick, arXiv 1611.00712). Noise doesn't depend on the logits, so a small change of them changes the token only where two
sums are about as close as that. All here are integers, and float32 additions and products that are rounded one by one,
so that each device repeats them to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
SEED, POSITION, FIRST, SECOND = (
    value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Odd numbers of 64 bits, as int64."""
ROOT = 0x3F3504F3
"""The bits of the root of 1/2."""
LOGARITHM = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
"""Of log(1 + f) between the roots of 1/2 and 2: (log(1 + f) - f + f^2 / 2) / f^3, from Cephes' logf."""
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4


def gumbel(seeds: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """(rows,) int64 each -> (rows, vocabulary) float32."""
    return from_bits(token_bits(row_keys(seeds, positions), vocab_size))


def row_keys(seeds: Tensor, positions: Tensor) -> Tensor:
    """int64 that differ in all bits for other seeds or positions (splitmix64, Steele et al. 2014)."""
    z = seeds * SEED + (positions + 1) * POSITION
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def token_bits(keys: Tensor, vocab_size: int) -> Tensor:
    """31 uniform bits of each token of each row, int64."""
    ids = torch.arange(vocab_size, device=keys.device)
    low, high = keys[:, None] & WORD, (keys[:, None] >> 32) & WORD
    return _mixed((_mixed(ids ^ low) + high) & WORD) >> 1


def _mixed(x: Tensor) -> Tensor:
    """A permutation of 32 bits, `lowbias32` of Wellons' hash prospector."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & WORD
    return x ^ (x >> 16)


def from_bits(bits: Tensor) -> Tensor:
    """-log(-log(1 - v)) of the number v in (0, 1) that 31 bits stand for."""
    below, above = ((x.float() + 0.5) * 2.0**-31 for x in (bits, (1 << 31) - 1 - bits))
    # Near 1 a float32 has no room for what is left of it: log(1 - v) is taken of v itself.
    is_small = below < 0.25
    fraction, exponent = _split(above)
    fraction, exponent = torch.where(is_small, -below, fraction), torch.where(is_small, 0.0, exponent)
    return -_log(*_split(-_log(fraction, exponent)))


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """f and e with x = (1 + f) 2^e, f between the roots of 1/2 and 2, less 1."""
    bits = x.view(torch.int32) - ROOT
    return ((bits & 0x7FFFFF) + ROOT).view(torch.float32) - 1.0, (bits >> 23).float()


def _log(fraction: Tensor, exponent: Tensor) -> Tensor:
    square, series = fraction * fraction, torch.full_like(fraction, LOGARITHM[0])
    for factor in LOGARITHM[1:]:
        series = series * fraction + factor
    rest = fraction * square * series + exponent * LN2_LOW - square * 0.5
    return fraction + rest + exponent * LN2_HIGH
