"""Feed-forward blocks."""

from __future__ import annotations

from torch import Tensor, nn

from sgcore.api import Build
from sgcore.layers.linear import Linear


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up in one product (arXiv 2002.05202)."""

    def __init__(self, build: Build, hidden: int, intermediate: int, bias: bool = False, name: str = "mlp") -> None:
        super().__init__()
        self.kernels = build.kernels
        self.gate_up_proj = Linear(build, hidden, (intermediate, intermediate), bias, f"{name}.gate_up_proj")
        self.down_proj = Linear(build, intermediate, hidden, bias, f"{name}.down_proj")

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.kernels.silu_mul(self.gate_up_proj(x)))  # type: ignore[no-any-return]
