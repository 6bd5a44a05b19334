"""Beside the suite: draws for which the most probable tokens aren't enough, and the noise itself."""

from __future__ import annotations

import pytest
import torch

from sgcore import noise
from sgcore.kernels import Kernels
from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.library import usable_levels

levels = pytest.mark.parametrize("level", usable_levels())
VOCABULARY = 5000


@levels
@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0])
@pytest.mark.parametrize(
    "top_k, top_p, min_p", [(5000, 1.0, 0.0), (900, 1.0, 0.0), (5000, 0.99, 0.0), (5000, 1.0, 1e-6)]
)
def test_any_distribution(level: str, spread: float, top_k: int, top_p: float, min_p: float) -> None:
    rows = 16
    logits = torch.randn(rows, VOCABULARY) * spread
    logits[::2, ::3] = float("-inf")
    limits = (torch.full((rows,), top_k), torch.full((rows,), top_p), torch.full((rows,), min_p))
    counters = (torch.arange(rows), torch.arange(rows) * 3)
    actual = CpuKernels(level).sample(logits, *limits, *counters)
    expected = Kernels().sample(logits, *limits, *counters)
    # A filter's limit may lie within rounding of the last token that it keeps, which is rarely the one that is drawn.
    assert int((actual != expected).sum()) <= (top_p < 1 or min_p > 0)
    assert logits.gather(1, actual[:, None]).isfinite().all()


@levels
def test_noise_is_the_references_to_the_last_bit(level: str) -> None:
    """Of equal logits that token is drawn whose noise is largest: any difference would show among so many."""
    rows, size = 200, 20_001
    counters = (torch.randint(0, 2**62, (rows,)), torch.randint(0, 2**31, (rows,)))
    limits = (torch.full((rows,), size), torch.ones(rows), torch.zeros(rows))
    expected = noise.gumbel(*counters, size).argmax(-1)
    assert torch.equal(CpuKernels(level).sample(torch.zeros(rows, size), *limits, *counters), expected)
    few = (torch.full((rows,), size - 1), *limits[1:])
    kept = noise.gumbel(*counters, size)[:, :-1].argmax(-1)
    assert torch.equal(CpuKernels(level).sample(torch.zeros(rows, size), *few, *counters), kept)
