"""Beside the suite: weights in bfloat16 that are packed, at every level."""

from __future__ import annotations

import pytest
import torch

from sgcore.kernels import Kernels
from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.library import usable_levels


@pytest.mark.parametrize("level", usable_levels())
@pytest.mark.parametrize("tokens", [1, 2, 5, 12, 13, 70])
@pytest.mark.parametrize("rows, size", [(64, 96), (576, 960), (48, 12)])
def test_packed_weights(level: str, tokens: int, rows: int, size: int) -> None:
    kernels = CpuKernels(level)
    x, bias = torch.randn(tokens, size + 8).bfloat16()[:, :size], torch.randn(rows).bfloat16()
    weight = (torch.randn(rows, size) / size**0.5).bfloat16()
    packed = kernels.pack(weight)
    assert packed.shape != weight.shape
    wide = x.float() @ weight.float().T
    for added, expected in ((None, wide), (bias, wide + bias.float())):
        torch.testing.assert_close(kernels.linear(x, packed, added), expected.bfloat16(), rtol=8e-3, atol=1e-4)


@pytest.mark.parametrize("level", usable_levels())
@pytest.mark.parametrize("rows, size", [(40, 64), (32, 66)])
def test_weights_that_fit_no_panel_multiply_as_they_are(level: str, rows: int, size: int) -> None:
    kernels, x, weight = CpuKernels(level), torch.randn(3, size).bfloat16(), torch.randn(rows, size).bfloat16()
    assert torch.equal(kernels.linear(x, kernels.pack(weight)), Kernels().linear(x, weight))
