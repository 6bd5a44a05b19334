"""Rows of the pool: what they take, and what is left of what they were made of."""

from __future__ import annotations

import pytest
import torch

from sgcore.api import CacheSpec, LayerCache
from sgcore.cache.pool import KVPool
from sgcore.cache.rows import LEAST_SCALE, narrowed, scale_bytes, widened

SPEC = CacheSpec((LayerCache(2, 16), LayerCache(1, 24, window=8)))
TYPES = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_token_takes_what_the_specification_says(dtype: torch.dtype) -> None:
    pool = KVPool(SPEC, 3, 4, dtype, torch.device("cpu"))
    token_bytes = SPEC.token_bytes(dtype.itemsize, scale_bytes(dtype))
    assert sum(tensor.nbytes for tensor in pool.tensors()) == 3 * 4 * token_bytes
    for layer, tensor in zip(pool.layers, pool.keys, strict=True):
        assert narrowed(torch.zeros(3, 4, layer.kv_heads, layer.head_dim), dtype).shape == tensor.shape


@pytest.mark.parametrize("head_dim", [16, 18])
def test_each_row_of_integers_has_its_scale(head_dim: int) -> None:
    x = torch.randn(5, 2, head_dim) * torch.tensor([1e-20, 0.0, 1e-3, 1.0, 1e20]).view(-1, 1, 1)
    rows = narrowed(x, torch.int8)
    left = (widened(rows, torch.float32) - x).abs()
    assert rows.shape == (5, 2, head_dim + 4) and (left <= x.abs().amax(-1, keepdim=True) / 253 + LEAST_SCALE).all()
    assert torch.equal(narrowed(x[2], torch.int8), rows[2])


def test_infinity_stays_in_its_row() -> None:
    x = torch.ones(2, 8)
    x[0, 3] = float("inf")
    wide = widened(narrowed(x, torch.int8), torch.float32)
    assert not wide[0].isfinite().any() and torch.equal(wide[1], x[1])
