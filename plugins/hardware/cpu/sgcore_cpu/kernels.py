"""What the processor does better than the reference: fewer passes over memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sgcore.kernels import Kernels

FEWEST_ROWS = 4
"""Fewer rows are padded to these."""
TYPICAL_ROWS = 512
"""The number of rows that the packed layout is chosen for; it is good for fewer as well."""


class CpuKernels(Kernels):
    """Overrides of the reference kernels for host memory.

    Products go through oneDNN with packed weights: it is faster than torch's own sgemm at every number of rows, and
    streams the weight of a few rows as fast as that of four, where one row alone is slower (bench/README.md).
    """

    def pack(self, weight: Tensor) -> Tensor:
        if weight.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            return weight
        return torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)  # type: ignore[no-any-return]

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not weight.is_mkldnn:
            return F.linear(x, weight, bias)
        rows = x.shape[0]
        if rows < FEWEST_ROWS:
            x = F.pad(x, (0, 0, 0, FEWEST_ROWS - rows))
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")[:rows]  # type: ignore[no-any-return]

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return (
            F.rms_norm(x, weight.shape, weight, eps) if x.dtype == torch.float32 else super().rms_norm(x, weight, eps)
        )

    def silu_mul(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)
