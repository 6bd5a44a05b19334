"""Products in bfloat16 by the native library: native/bfloats.h explains the layout."""

from __future__ import annotations

import torch
from torch import Tensor

from sgcore_cpu.library import Library

ROWS = 16
"""Of a panel."""
FEATURES = 4
"""A step of the native function."""


def takes(weight: Tensor) -> bool:
    return len(weight) % ROWS == 0 and weight.shape[1] % FEATURES == 0


def pack(weight: Tensor) -> Tensor:
    """(out, in) -> (panels, in / 2, ROWS * 2)."""
    pairs = weight.contiguous().view(torch.int32)
    return pairs.view(-1, ROWS, pairs.shape[1]).transpose(1, 2).contiguous().view(torch.bfloat16)


def linear(library: Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (tokens, in) and the result (tokens, out) in bfloat16, summed in float32."""
    assert x.dtype == torch.bfloat16
    if x.stride(1) != 1:
        x = x.contiguous()
    tokens, size = x.shape
    out = torch.empty(tokens, len(weight) * ROWS, dtype=x.dtype)
    library.linear_bfloats(
        x.data_ptr(), x.stride(0), tokens, size, weight.data_ptr(), None if bias is None else bias.data_ptr(),
        out.data_ptr(), out.shape[1], torch.get_num_threads(),
    )  # fmt: skip
    return out
