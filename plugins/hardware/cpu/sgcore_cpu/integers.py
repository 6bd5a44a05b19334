"""Products with weights of 4 or 8 bits in groups, by the native library."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor

from sgcore.kernels import PACK_BLOCK
from sgcore_cpu.library import Library

LONGEST_SEGMENT = 128
"""Input features that share a scale when they are rounded to 16 bits."""
SCALES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
ZEROS = {torch.uint8: 0, torch.float32: 1}
UNPACKED_ROWS = 32
"""Rows of the weight that a thread unpacks at a time."""


def takes(x: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor | None) -> bool:
    """Whether the library multiplies these; x is a matrix that it can read."""
    groups = scales.shape[1]
    is_whole = len(x) > 0 and x.shape[1] % (groups * PACK_BLOCK) == 0 and weight.is_contiguous()
    return is_whole and scales.dtype in SCALES and (zeros is None or zeros.dtype in ZEROS)


def linear(
    library: Library, x: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, bias: Tensor | None
) -> Tensor:
    """As `Kernels.linear_int`; inputs are rounded to 16 bits in segments."""
    (tokens, size), (rows, groups) = x.shape, scales.shape
    group = size // groups
    segment = group if group <= LONGEST_SEGMENT else gcd(group, LONGEST_SEGMENT)
    threads = torch.get_num_threads()
    row_bytes = 2 * size + 8 * size // segment
    scratch = torch.empty(-(-tokens * row_bytes // 64) * 16 + threads * UNPACKED_ROWS * row_bytes // 4)
    out = torch.empty(tokens, rows, dtype=x.dtype)
    bias_at = None if bias is None else bias.data_ptr()
    zero: tuple[int | None, int, int, int] = (None, 0, 0, 0)
    if zeros is not None:
        zero = (zeros.data_ptr(), *zeros.stride(), ZEROS[zeros.dtype])
    library.linear_int(
        x.data_ptr(), x.stride(0), tokens, size, weight.data_ptr(), rows, bits,
        scales.data_ptr(), *scales.stride(), SCALES[scales.dtype], *zero, group, segment,
        bias_at, out.data_ptr(), scratch.data_ptr(), x.dtype == torch.bfloat16, threads,
    )  # fmt: skip
    return out
