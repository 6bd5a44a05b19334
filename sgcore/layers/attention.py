"""The attention layer: it knows its shape and its place in the cache; a backend does the work."""

from __future__ import annotations

from torch import Tensor, nn

from sgcore.api import AttentionBackend, LayerCache
from sgcore.kernels import Kernels
from sgcore.runner.batch import ForwardBatch


class Attention(nn.Module):
    """Causal attention over the paged cache. `index` is the layer's place in the cache specification."""

    backend: AttentionBackend
    """Set by the runner once the pool exists."""

    def __init__(
        self,
        kernels: Kernels,
        index: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.kernels = kernels
        self.index, self.heads, self.kv_heads, self.head_dim, self.window = index, heads, kv_heads, head_dim, window
        self.scale = head_dim**-0.5 if scale is None else scale

    @property
    def cache(self) -> LayerCache:
        """What the pool holds for this layer."""
        return LayerCache(self.kv_heads, self.head_dim, self.window)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, batch: ForwardBatch) -> Tensor:
        """q (tokens, heads, head_dim), k and v (tokens, kv_heads, head_dim) -> (tokens, heads * head_dim)."""
        pool = self.backend.pool
        self.kernels.write_kv(pool.keys[self.index], pool.values[self.index], k, v, batch.slots)
        return self._attend(q, k, v, batch)

    def rotary(
        self, qkv: Tensor, norms: tuple[Tensor, Tensor, float] | None, cos: Tensor, sin: Tensor, batch: ForwardBatch
    ) -> Tensor:
        """As `forward`, for a fused projection whose q and k are yet to be normed and rotated."""
        pool = self.backend.pool
        keys, values = pool.keys[self.index], pool.values[self.index]
        q, k, v = self.kernels.rotary_write(qkv, self.heads, norms, cos, sin, keys, values, batch.slots)
        return self._attend(q, k, v, batch)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, batch: ForwardBatch) -> Tensor:
        return self.backend.forward(q, k, v, self.index, self.scale, self.window, batch).flatten(1)
