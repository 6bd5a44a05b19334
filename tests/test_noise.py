"""Noise of draws: uniform bits from counters, and Gumbel numbers to float32's precision."""

from __future__ import annotations

import torch

from sgcore import noise
from sgcore.kernels import Kernels


def test_numbers_are_gumbels_inverse_distribution() -> None:
    bits = torch.cat((torch.arange(0, 1 << 31, 100_003), torch.arange(2000), (1 << 31) - 1 - torch.arange(2000)))
    exact = -torch.log(-torch.log1p(-(bits.double() + 0.5) * 2.0**-31))
    torch.testing.assert_close(noise.from_bits(bits).double(), exact, atol=2e-6, rtol=0)


def test_bits_are_uniform_and_depend_on_seed_position_and_token() -> None:
    seeds, positions = (x.flatten() for x in torch.meshgrid(torch.arange(30), torch.arange(30), indexing="ij"))
    bits = noise.token_bits(noise.row_keys(seeds, positions), 300)
    assert bits.min() >= 0 and bits.max() < 1 << 31
    for shift in (27, 13, 0):
        counts = torch.bincount((bits >> shift).flatten() & 15, minlength=16)
        expected = bits.numel() / 16
        assert float(((counts - expected) ** 2 / expected).sum()) < 45  # 1 in 10,000 at 15 degrees of freedom
    assert len(bits.flatten().unique()) > bits.numel() - 60  # 17 pairs are expected to be equal
    for other in (bits.roll(1, 0), bits.roll(1, 1), bits.roll(30, 0)):
        pair = torch.stack((bits.flatten(), other.flatten())).double()
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.01


def test_known_numbers() -> None:
    """Those of another implementation of the same definition, in Python's integers."""
    mask, word = (1 << 64) - 1, (1 << 32) - 1

    def mixed(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D & word
        x = (x ^ x >> 15) * 0x846CA68B & word
        return x ^ x >> 16

    for seed, position, token in ((0, 0, 0), (2**63 - 1, 131_071, 151_935), (42, 17, 3)):
        z = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        z ^= z >> 31
        wanted = mixed(mixed(token ^ z & word) + (z >> 32) & word) >> 1
        keys = noise.row_keys(torch.tensor([seed]), torch.tensor([position]))
        assert int(noise.token_bits(keys, token + 1)[0, token]) == wanted


def test_draws_follow_the_distribution_that_filters_leave() -> None:
    """Chi-square of 40,000 draws: one in 10,000 of right samplers would fail."""
    count, vocabulary = 40_000, 12
    logits = torch.tensor([[2.0, 1.7, 1.7, 1.0, 0.5, 0.0, 0.0, -0.5, -1.0, -1.0, -2.0, -3.0]])
    for top_k, top_p, min_p in ((12, 1.0, 0.0), (6, 1.0, 0.0), (12, 0.85, 0.0), (12, 1.0, 0.2), (9, 0.9, 0.1)):
        limits = (torch.full((count,), top_k), torch.full((count,), top_p), torch.full((count,), min_p))
        draws = Kernels().sample(logits.expand(count, -1), *limits, torch.arange(count), torch.full((count,), 5))
        counts = torch.bincount(draws, minlength=vocabulary).double()
        kept = Kernels._kept(logits, *(limit[:1] for limit in limits))[0]
        wanted = logits[0].double().masked_fill(~kept, float("-inf")).softmax(-1) * count
        assert not counts[~kept].any()
        assert float(((counts - wanted)[kept] ** 2 / wanted[kept]).sum()) < 40
