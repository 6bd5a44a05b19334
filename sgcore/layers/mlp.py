"""Feed-forward blocks."""

from __future__ import annotations

from torch import Tensor, nn

from sgcore.api import Build
from sgcore.layers.linear import Linear
from sgcore.layers.norm import RMSNorm


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one product (arXiv 2002.05202)."""

    def __init__(self, build: Build, hidden: int, intermediate: int, bias: bool = False, name: str = "mlp") -> None:
        super().__init__()
        self.gate_up_proj = Linear(build, hidden, (intermediate, intermediate), bias, f"{name}.gate_up_proj")
        self.down_proj = Linear(build, intermediate, hidden, bias, f"{name}.down_proj")

    def forward(self, norm: RMSNorm, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The block's output for the normed sum of x and residual, and the sum."""
        gated, total = self.gate_up_proj.gated(norm, x, residual)
        return self.down_proj(gated), total
