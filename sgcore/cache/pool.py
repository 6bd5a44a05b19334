"""The paged key and value tensors: one pair for each attention layer."""

from __future__ import annotations

import mmap
from math import prod

import numpy as np
import torch
from torch import Tensor

from sgcore.api import CacheSpec
from sgcore.cache.rows import scale_bytes


class KVPool:
    """Keys and values of every layer, (pages, page_tokens, kv_heads, head_dim) each. Page 0 is scratch.

    Rows of int8 are longer by their scale (`sgcore.cache.rows`).
    """

    def __init__(self, spec: CacheSpec, pages: int, page_tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        self.page_tokens = page_tokens
        self.layers = spec.layers
        """What each of them keeps."""
        more = scale_bytes(dtype)
        shapes = [(pages, page_tokens, layer.kv_heads, layer.head_dim + more) for layer in spec.layers]
        self.keys = [_zeros(shape, dtype, device) for shape in shapes]
        self.values = [_zeros(shape, dtype, device) for shape in shapes]

    def tensors(self) -> list[Tensor]:
        """Every pool tensor, for page copies."""
        return self.keys + self.values


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on the host they take memory only once they are written to, a small page at a time.

    Huge ones, which numpy would ask for, are zeroed for each layer when a prompt comes.
    """
    size = prod(shape) * dtype.itemsize
    if device.type != "cpu" or not size or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.zeros(shape, dtype=dtype, device=device)
    mapped = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.from_numpy(np.frombuffer(mapped, np.uint8)).view(dtype).view(shape)
