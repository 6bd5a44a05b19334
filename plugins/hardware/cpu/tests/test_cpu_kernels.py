"""Beside the suite: weights that are packed, and what is not."""

from __future__ import annotations

import pytest
import torch

from sgcore.kernels import Kernels
from sgcore_cpu.kernels import CpuKernels

REFERENCE, CPU = Kernels(), CpuKernels()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 31, 200])
@pytest.mark.parametrize("size", [(64, 96), (576, 960), (33, 7)])
def test_packed_weights_of_any_shape(rows: int, size: tuple[int, int]) -> None:
    x, weight = torch.randn(rows, size[0]), torch.randn(size[1], size[0])
    torch.testing.assert_close(CPU.linear(x, CPU.pack(weight)), REFERENCE.linear(x, weight), atol=1e-4, rtol=1e-4)


def test_a_type_that_is_not_packed_multiplies_as_it_is() -> None:
    x, weight = torch.randn(3, 16).double(), torch.randn(8, 16).double()
    torch.testing.assert_close(CPU.linear(x, CPU.pack(weight)), REFERENCE.linear(x, weight))
