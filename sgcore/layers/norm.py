"""Normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sgcore.api import Build


class RMSNorm(nn.Module):
    """Root-mean-square norm; with a residual it adds first and returns the sum as well."""

    def __init__(self, build: Build, size: int, eps: float) -> None:
        super().__init__()
        self.kernels, self.eps = build.kernels, eps
        self.weight = nn.Parameter(torch.ones(size, dtype=build.dtype, device=build.device), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Norm of `x + residual`, and the sum; the first layer has no residual yet."""
        return self.kernels.add_norm(x, residual, self.weight, self.eps)
