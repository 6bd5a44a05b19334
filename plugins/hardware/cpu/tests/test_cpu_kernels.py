"""Every override of `CpuKernels` against the reference in `Kernels`."""

from __future__ import annotations

import pytest
import torch

from sgcore.kernels import Kernels
from sgcore_cpu.kernels import CpuKernels

REFERENCE, CPU = Kernels(), CpuKernels()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 31, 200])
@pytest.mark.parametrize("size", [(64, 96), (576, 960), (33, 7)])
def test_linear_with_packed_weights(rows: int, size: tuple[int, int], has_bias: bool) -> None:
    x, weight = drawn(rows, size[0]), drawn(size[1], size[0], seed=1)
    bias = drawn(size[1], seed=2) if has_bias else None
    wanted = REFERENCE.linear(x, REFERENCE.pack(weight), bias)
    torch.testing.assert_close(CPU.linear(x, CPU.pack(weight), bias), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(CPU.linear(x, weight, bias), wanted, atol=1e-4, rtol=1e-4)


def test_a_type_that_is_not_packed_multiplies_as_it_is() -> None:
    x, weight = drawn(3, 16).double(), drawn(8, 16).double()
    torch.testing.assert_close(CPU.linear(x, CPU.pack(weight)), REFERENCE.linear(x, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_norm_and_gate(dtype: torch.dtype) -> None:
    x, weight = drawn(5, 48).to(dtype), drawn(48, seed=1).to(dtype)
    torch.testing.assert_close(CPU.rms_norm(x, weight, 1e-5), REFERENCE.rms_norm(x, weight, 1e-5))
    torch.testing.assert_close(CPU.silu_mul(x), REFERENCE.silu_mul(x))
