"""What the pool keeps of a head's key or value: its numbers, and behind those of int8 the scale that they have to be
multiplied with, a float32 of the row's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 127
"""The largest number of a row of int8."""
LEAST_SCALE = 1e-12
"""So that a row of zeros can be divided by its scale."""


def scale_bytes(dtype: torch.dtype) -> int:
    """Of a row's scale."""
    return 4 if dtype == torch.int8 else 0


def narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (..., head_dim) as rows of a pool of `dtype`; 8-bit floats take what is beyond their range as their largest."""
    if dtype == torch.int8:
        wide = x.float()
        scales = (wide.abs().amax(-1, keepdim=True) / MOST).clamp(min=LEAST_SCALE)
        return torch.cat(((wide / scales).round().to(dtype), scales.view(dtype)), -1)
    if dtype.itemsize == 1:
        # Not every torch that is supported rounds what is beyond the range (pytorch#178817): it may be NaN.
        most = torch.finfo(dtype).max
        x = x.clamp(-most, most)
    return x.to(dtype)


def widened(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of a pool as (..., head_dim) in `dtype`."""
    size = scale_bytes(rows.dtype)
    if not size:
        return rows.to(dtype)
    scales = rows[..., -size:].contiguous().view(torch.float32)
    return (rows[..., :-size] * scales).to(dtype)
