"""Products with weights of 4 or 8 bits in groups, by the native library: native/integers.h explains the layout."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor

from sgcore.kernels import PACK_BLOCK
from sgcore_cpu.library import Library

ROWS = 16
"""Of a panel."""
LONGEST_SEGMENT = 64
"""Input features that share a rate when they are rounded to 8 bits."""
COARSE = 2.0
"""Segments whose rate is so many times the token's are rounded to 16 bits, others to 8."""
ERROR, COARSE_ERROR = 5e-4, 0.02
"""`Kernels.integer_error`, with 16 bits for all segments and with `COARSE`: the largest of many results."""
SEGMENT_TOKENS = 16
"""The native function has room for the segments of whole tiles of so many tokens."""
LOW_HALVES = 0x0F0F0F0F


def pack(values: Tensor, bits: int) -> Tensor:
    """(out, in) uint8 -> (out, in * bits / 8), which is only a shape: what lies there are panels."""
    units = values.contiguous().view(torch.int32)
    if bits == 4:
        units = units[:, 0::2] | units[:, 1::2] << 4
    return _panels(units).view(torch.uint8)


def unpack(weight: Tensor, bits: int) -> Tensor:
    """What `pack` was given."""
    units = _rows(weight.view(torch.int32))
    if bits == 4:
        units = torch.stack((units & LOW_HALVES, units >> 4 & LOW_HALVES), dim=2).flatten(1)
    return units.contiguous().view(torch.uint8)


def pack_scales(scales: Tensor, zeros: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Panels, in float16 where that has all the numbers, and else in float32."""
    given = [scales.float()] if zeros is None else [scales.float(), zeros.float()]
    dtype = torch.float16 if all(map(_fits_half, given)) else torch.float32
    made = [_panels(numbers.to(dtype)) for numbers in given]
    return made[0], None if zeros is None else made[1]


def unpack_scales(scales: Tensor, zeros: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """What `pack_scales` was given, in another type."""
    return _rows(scales), None if zeros is None else _rows(zeros)


def _panels(numbers: Tensor) -> Tensor:
    """(rows, n) as panels (n, ROWS), and one of fewer rows for those that are left."""
    whole = len(numbers) // ROWS * ROWS
    panels = numbers[:whole].view(-1, ROWS, numbers.shape[1]).transpose(1, 2).contiguous()
    if whole == len(numbers):
        return panels.view(numbers.shape)
    return torch.cat((panels.flatten(), numbers[whole:].T.flatten())).view(numbers.shape)


def _rows(panels: Tensor) -> Tensor:
    whole, count = len(panels) // ROWS * ROWS, panels.shape[1]
    rows = panels[:whole].view(-1, count, ROWS).transpose(1, 2).reshape(whole, count)
    return torch.cat((rows, panels[whole:].view(count, -1).T)) if whole < len(panels) else rows


def _fits_half(numbers: Tensor) -> bool:
    return torch.equal(numbers.half().float(), numbers)


def takes(x: Tensor, scales: Tensor) -> bool:
    """Whether the library multiplies x, a matrix that it can read, with a weight of such groups."""
    return len(x) > 0 and x.shape[1] % (scales.shape[1] * PACK_BLOCK // 2) == 0


def linear(
    library: Library,
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    bits: int,
    bias: Tensor | None,
    coarseness: float,
) -> Tensor:
    """As `Kernels.linear_int`; inputs are rounded to 16 bits in segments.

    To 8, where a segment's rate is below `coarseness` times the root of the mean square of all rates of its token.
    """
    (tokens, size), (rows, groups) = x.shape, scales.shape
    group = size // groups
    segment = gcd(group, LONGEST_SEGMENT)
    panel_bytes = ROWS * (size * bits // 8 + 2 * groups * scales.itemsize) if rows % ROWS else 0
    segments = -(-tokens // SEGMENT_TOKENS) * SEGMENT_TOKENS * (size // segment)
    scratch = torch.empty(16 * segments + 2 * tokens * size + panel_bytes, dtype=torch.uint8)
    out = torch.empty(tokens, rows, dtype=x.dtype)
    library.linear_int(
        x.data_ptr(), x.stride(0), tokens, size, weight.data_ptr(), rows, bits, scales.data_ptr(),
        None if zeros is None else zeros.data_ptr(), scales.itemsize, group, segment,
        None if bias is None else bias.data_ptr(), out.data_ptr(), scratch.data_ptr(), coarseness,
        x.dtype == torch.bfloat16, torch.get_num_threads(),
    )  # fmt: skip
    return out
