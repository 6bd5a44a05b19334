"""Each override against the reference, interpreted where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from sgcore.testing.kernels import KernelSuite
from sgcore_triton import integers
from sgcore_triton.kernels import TritonKernels

HAS_GPU = torch.cuda.is_available()


class TestKernels(KernelSuite):
    kernels = TritonKernels()
    device = "cuda" if HAS_GPU else "cpu"
    # The interpreter's products in bfloat16 are wrong.
    dtypes = (torch.float32, torch.bfloat16 if HAS_GPU else torch.float16)


@pytest.mark.parametrize("known", integers.TILES, ids=str)
def test_a_gated_product_of_integers_has_one_part(known: tuple[int, int, int]) -> None:
    assert integers.tile(*known, integers.LONGEST_STEP, is_gated=False) == integers.TILES[known]
    _, parts, *_ = integers.tile(*known, integers.LONGEST_STEP, is_gated=True)
    assert parts == 1
