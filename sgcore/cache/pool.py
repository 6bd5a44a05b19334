"""The paged key and value tensors: one pair for each attention layer."""

from __future__ import annotations

import torch
from torch import Tensor

from sgcore.api import CacheSpec


class KVPool:
    """Keys and values of every layer, (pages, page_tokens, kv_heads, head_dim) each. Page 0 is scratch."""

    def __init__(self, spec: CacheSpec, pages: int, page_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        self.page_tokens = page_tokens
        shapes = [(pages, page_tokens, layer.kv_heads, layer.head_dim) for layer in spec.layers]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]

    def tensors(self) -> list[Tensor]:
        """Every pool tensor, for page copies."""
        return self.keys + self.values
