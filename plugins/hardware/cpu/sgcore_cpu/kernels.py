"""What the processor does better than the reference: fewer passes over memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sgcore.kernels import Kernels

FEWEST_ROWS = 4
"""Fewer rows are repeated to these."""
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
            x = torch.cat((x,) * -(-FEWEST_ROWS // rows))
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")[:rows]  # type: ignore[no-any-return]

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return (
            F.rms_norm(x, weight.shape, weight, eps) if x.dtype == torch.float32 else super().rms_norm(x, weight, eps)
        )

    def silu_mul(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        out = x * cos
        (first, second), (sin_first, sin_second) = x.chunk(2, dim=-1), sin.chunk(2, dim=-1)
        into_first, into_second = out.chunk(2, dim=-1)
        into_first.addcmul_(second, sin_first, value=-1)
        into_second.addcmul_(first, sin_second)
        return out

    def rotary_write(
        self,
        qkv: Tensor,
        heads: int,
        norms: tuple[Tensor, Tensor, float] | None,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q and k stand side by side, and are rotated in one go."""
        if norms is not None:
            return super().rotary_write(qkv, heads, norms, cos, sin, keys, values, slots)
        kv_heads, head_dim = keys.shape[2], keys.shape[3]
        split = qkv.view(len(qkv), -1, head_dim)
        rotated, v = self._rotate(split[:, : heads + kv_heads], cos, sin), split[:, heads + kv_heads :]
        q, k = rotated[:, :heads], rotated[:, heads:]
        self.write_kv(keys, values, k, v, slots)
        return q, k, v
