"""Beside the suite: draws for which the most probable tokens aren't enough, and ties."""

from __future__ import annotations

import pytest
import torch

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
    uniform = torch.linspace(0, 0.999, rows, dtype=torch.float64)
    actual = CpuKernels(level).sample(logits, *limits, uniform)
    expected = Kernels().sample(logits, *limits, uniform)
    rank = logits.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    places = [rank.gather(1, tokens[:, None]) for tokens in (actual, expected)]
    assert (
        int((places[0] - places[1]).abs().max()) <= 2
    )  # sums of thousands of float32 numbers differ in their last bits
    assert logits.gather(1, actual[:, None]).isfinite().all()


@levels
def test_equal_logits_are_in_the_order_of_ids(level: str) -> None:
    rows = 64
    logits, uniform = torch.zeros(rows, 64), (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    limits = (torch.full((rows,), 64), torch.ones(rows), torch.zeros(rows))
    assert CpuKernels(level).sample(logits, *limits, uniform).tolist() == list(range(64))
    logits[:, :32] = -1.0
    few = (torch.full((rows,), 4), *limits[1:])
    assert CpuKernels(level).sample(logits, *few, uniform).tolist() == [32 + i // 16 for i in range(64)]
