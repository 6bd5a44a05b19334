"""Each override against the reference, interpreted where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from sgcore import noise
from sgcore.testing.kernels import KernelSuite
from sgcore_triton import integers
from sgcore_triton.kernels import TritonKernels

HAS_GPU = torch.cuda.is_available()


class TestKernels(KernelSuite):
    kernels = TritonKernels()
    device = "cuda" if HAS_GPU else "cpu"
    draws = 2000 if HAS_GPU else 60
    # The interpreter's products in bfloat16 are wrong.
    dtypes = (torch.float32, torch.bfloat16 if HAS_GPU else torch.float16)


@pytest.mark.parametrize("taken", [0, 1])
def test_noise_is_the_references_to_the_last_bit(taken: int) -> None:
    """Of equal logits that token is drawn whose noise is largest, with a filter and without one."""
    rows, size = 4, 20_001
    counters = (torch.randint(0, 2**62, (rows,)), torch.randint(0, 2**31, (rows,)))
    expected = noise.gumbel(*counters, size)[:, : size - taken].argmax(-1)
    given = (torch.zeros(rows, size), torch.full((rows,), size - taken), torch.ones(rows), torch.zeros(rows), *counters)
    actual = TestKernels.kernels.sample(*(x.to(TestKernels.device) for x in given))
    assert torch.equal(actual.cpu(), expected)


@pytest.mark.parametrize("known", integers.TILES, ids=str)
def test_a_gated_product_of_integers_has_one_part(known: tuple[int, int, int]) -> None:
    assert integers.tile(*known, integers.LONGEST_STEP, is_gated=False) == integers.TILES[known]
    _, parts, *_ = integers.tile(*known, integers.LONGEST_STEP, is_gated=True)
    assert parts == 1
