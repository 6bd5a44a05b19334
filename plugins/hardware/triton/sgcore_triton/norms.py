"""Norms and the gated activation: one pass over memory each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgcore_triton.launch import overlap, wait_for_inputs
from sgcore_triton.targets import FLOATS, runs_here

LARGEST_HIDDEN = 16384
"""A row is held in registers; wider ones go to the reference."""


@triton.jit(do_not_specialize=["eps"])
def _norm_rows(
    x, residual, weight, out, total, x_stride, residual_stride, eps,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, ADDS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program a row; sums and products round where the reference rounds."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < SIZE
    scale = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    wide = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if ADDS:
        wide += tl.load(residual + row * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
        rounded = wide.to(total.dtype.element_ty)
        tl.store(total + row * SIZE + columns, rounded, mask=inside)
        wide = rounded.to(tl.float32)
    rate = tl.rsqrt(tl.sum(wide * wide) / SIZE + eps)
    normed = (wide * rate).to(x.dtype.element_ty).to(tl.float32)
    tl.store(out + row * SIZE + columns, normed * scale, mask=inside)


def takes(x: Tensor, residual: Tensor | None = None) -> bool:
    """Whether the kernels here take these."""
    same = residual is None or (residual.dtype == x.dtype and residual.shape == x.shape)
    return runs_here(x) and x.dtype in FLOATS and x.shape[-1] <= LARGEST_HIDDEN and same


def takes_gated(x: Tensor) -> bool:
    """Whether `silu_mul` takes this: of any width."""
    return runs_here(x) and x.dtype in FLOATS


def _as_rows(x: Tensor) -> Tensor:
    """(rows, size) with a last stride of one; a copy only where no view is one."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def _warps(size: int) -> int:
    return min(16, max(1, triton.next_power_of_2(size) // 512))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `Kernels.rms_norm`; x (..., size) of any strides, size up to `LARGEST_HIDDEN`."""
    rows, size = _as_rows(x), x.shape[-1]
    out = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
    if rows.shape[0]:
        _norm_rows[(rows.shape[0],)](
            rows, rows, weight, out, out, rows.stride(0), 0, eps,
            SIZE=size, BLOCK=triton.next_power_of_2(size), ADDS=False, num_warps=_warps(size), **overlap(x),
        )  # fmt: skip
    return out


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `Kernels.add_rms_norm`; x and residual (..., size) of one dtype."""
    rows, others, size = _as_rows(x), _as_rows(residual), x.shape[-1]
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    out = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
    if rows.shape[0]:
        _norm_rows[(rows.shape[0],)](
            rows, others, weight, out, total, rows.stride(0), others.stride(0), eps,
            SIZE=size, BLOCK=triton.next_power_of_2(size), ADDS=True, num_warps=_warps(size), **overlap(x),
        )  # fmt: skip
    return out, total


@triton.jit
def gated(gate, up, DTYPE: tl.constexpr):
    """silu of one product times another, both float32, rounded where the reference rounds."""
    gate = gate.to(DTYPE).to(tl.float32)
    silu = (gate * tl.sigmoid(gate)).to(DTYPE).to(tl.float32)
    return (silu * up.to(DTYPE).to(tl.float32)).to(DTYPE)


@triton.jit
def _silu_mul_rows(x, out, x_stride, SIZE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    # Neighbouring programs share a row.
    blocks: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // blocks).to(tl.int64)
    columns = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = columns < SIZE
    wait_for_inputs(PDL)
    gate = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + row * x_stride + SIZE + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + columns, gated(gate, up, x.dtype.element_ty), mask=inside)


def silu_mul(x: Tensor) -> Tensor:
    """As `Kernels.silu_mul`; x (..., 2 n) of any strides."""
    rows, size = _as_rows(x), x.shape[-1] // 2
    out = torch.empty((*x.shape[:-1], size), dtype=x.dtype, device=x.device)
    block = min(2048, triton.next_power_of_2(size))
    if rows.shape[0]:
        grid = (rows.shape[0] * triton.cdiv(size, block),)
        _silu_mul_rows[grid](rows, out, rows.stride(0), SIZE=size, BLOCK=block, **overlap(x))
    return out
