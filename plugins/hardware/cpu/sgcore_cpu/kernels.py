"""What the processor does better than the reference: native kernels, and oneDNN's products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sgcore.kernels import Block, Kernels, expand
from sgcore_cpu import bfloats, integers
from sgcore_cpu.library import Library, chosen_level, open_library

FEWEST_ROWS = 4
"""oneDNN gets at least so many rows: it streams the weight of one alone more slowly."""
TYPICAL_ROWS = 512
"""The number of rows that oneDNN's layout is chosen for; it is good for fewer as well."""
PANEL = 32
"""Rows of a weight that the native layout keeps together."""
NATIVE = (torch.float32, torch.bfloat16)
GATED_TOKENS = 128
"""So many at a time have gate and up in memory: in the caches with a large model, and less of it in all."""


class CpuKernels(Kernels):
    """Overrides of the reference kernels for host memory; without a native library they are torch's."""

    def __init__(self, level: str | None = None, coarseness: float = 0.0) -> None:
        """`level`: another one than the processor and the environment choose; `coarseness` as in `integers.linear`."""
        self.level, self.coarseness = level, coarseness
        self.library = open_library(level or chosen_level())
        error = integers.COARSE_ERROR if coarseness else integers.ERROR
        self.integer_error = 0.0 if self.library is None else error

    def for_rounded_weights(self) -> Kernels:
        return CpuKernels(self.level, integers.COARSE)

    def pack(self, weight: Tensor) -> Tensor:
        if weight.dtype == torch.bfloat16 and self.library is not None and bfloats.takes(weight):
            return bfloats.pack(weight)
        if weight.dtype != torch.float32:
            return weight
        if self.library is not None and len(weight) % PANEL == 0:
            return self._panels(self.library, weight)
        if not torch.backends.mkldnn.is_available():
            return weight
        return torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)  # type: ignore[no-any-return]

    def _panels(self, library: Library, weight: Tensor) -> Tensor:
        """(panels, in, PANEL)."""
        rows, size = weight.shape
        packed = torch.empty(rows // PANEL, size, PANEL)
        library.pack_panels(weight.contiguous().data_ptr(), rows, size, packed.data_ptr(), torch.get_num_threads())
        return packed

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight.is_mkldnn:
            rows = x.shape[0]
            if rows < FEWEST_ROWS:
                x = F.pad(x, (0, 0, 0, FEWEST_ROWS - rows))
            return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")[:rows]  # type: ignore[no-any-return]
        if weight.dim() == 3:
            assert self.library is not None
            if weight.dtype == torch.bfloat16:
                return bfloats.linear(self.library, x, weight, bias)
            return self._linear_panels(self.library, x, weight, bias)
        return F.linear(x, weight, bias)

    def _linear_panels(self, library: Library, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert x.dtype == torch.float32
        tokens, size = x.shape
        rows = len(weight) * PANEL
        if x.stride(1) != 1:
            x = x.contiguous()
        out = torch.empty(tokens, rows)
        library.linear_panels(
            x.data_ptr(), x.stride(0), tokens, size, weight.data_ptr(), _pointer(bias), out.data_ptr(), rows,
            torch.get_num_threads(),
        )  # fmt: skip
        return out

    def product_fp8(
        self,
        x: Tensor,
        rates: Tensor,
        weight: Tensor,
        scale: Tensor,
        dtype: torch.dtype,
        bias: Tensor | None = None,
        block: Block | None = None,
    ) -> Tensor:
        if self.library is None or len(weight) % PANEL:
            return super().product_fp8(x, rates, weight, scale, dtype, bias, block)
        # torch's product has another order of sums for one token than for several.
        rows, columns = block or (1, weight.shape[1])
        panels = self._panels(self.library, self.widen_fp8(weight, scale, (rows, columns)))
        wide = x.float() * expand(rates, 1, columns, x.shape)
        return self.linear(wide, panels, None if bias is None else bias.float()).to(dtype)

    def pack_int(self, values: Tensor, bits: int) -> Tensor:
        return super().pack_int(values, bits) if self.library is None else integers.pack(values, bits)

    def pack_scales(self, scales: Tensor, zeros: Tensor | None, bits: int) -> tuple[Tensor, Tensor | None]:
        if self.library is None:
            return super().pack_scales(scales, zeros, bits)
        return integers.pack_scales(scales, zeros)

    def widen_int(self, weight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
        if self.library is None:
            return super().widen_int(weight, scales, zeros, bits)
        plain = super().pack_int(integers.unpack(weight, bits), bits)
        return super().widen_int(plain, *integers.unpack_scales(scales, zeros), bits)

    def multiplies_packed(self, zeros: Tensor | None, group: int) -> bool:
        return self.library is not None

    def linear_int(
        self,
        x: Tensor,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bits: int,
        bias: Tensor | None = None,
    ) -> Tensor:
        if self.library is not None and _has_rows(x) and integers.takes(x, scales):
            return integers.linear(self.library, x, weight, scales, zeros, bits, bias, self.coarseness)
        return super().linear_int(x, weight, scales, zeros, bits, bias)

    def gated_int(
        self,
        x: Tensor,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bits: int,
        bias: Tensor | None = None,
    ) -> Tensor:
        if len(x) <= GATED_TOKENS:
            return super().gated_int(x, weight, scales, zeros, bits, bias)
        out = torch.empty(len(x), len(weight) // 2, dtype=x.dtype)
        for some, place in zip(x.split(GATED_TOKENS), out.split(GATED_TOKENS), strict=True):
            self._silu_mul(self.linear_int(some, weight, scales, zeros, bits, bias), place)
        return out

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if self.library is not None and _has_rows(x) and weight.dtype == x.dtype:
            return self._norm(self.library, x, None, weight, eps)[0]
        is_wide = x.dtype == torch.float32
        return F.rms_norm(x, weight.shape, weight, eps) if is_wide else super().rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        if (
            self.library is not None
            and _has_rows(x)
            and _has_rows(residual)
            and x.dtype == weight.dtype == residual.dtype
        ):
            return self._norm(self.library, x, residual, weight, eps)
        return super().add_rms_norm(x, residual, weight, eps)

    def _norm(
        self, library: Library, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        rows, size = x.shape
        out = torch.empty(rows, size, dtype=x.dtype)
        total = x if residual is None else torch.empty(rows, size, dtype=x.dtype)
        library.add_rms_norm(
            x.data_ptr(), x.stride(0), _pointer(residual), 0 if residual is None else residual.stride(0),
            weight.data_ptr(), eps, out.data_ptr(), total.data_ptr(), rows, size, x.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )  # fmt: skip
        return out, total

    def silu_mul(self, x: Tensor) -> Tensor:
        return self._silu_mul(x, torch.empty(*x.shape[:-1], x.shape[-1] // 2, dtype=x.dtype))

    def _silu_mul(self, x: Tensor, out: Tensor) -> Tensor:
        """`silu_mul` into `out`, which is contiguous."""
        if self.library is not None and _has_rows(x) and x.is_contiguous():
            is_narrow = x.dtype == torch.bfloat16
            self.library.silu_mul(x.data_ptr(), out.data_ptr(), *out.shape, is_narrow, torch.get_num_threads())
            return out
        gate, up = x.chunk(2, dim=-1)
        return torch.mul(F.silu(gate), up, out=out)

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
        is_known = keys.dtype in (qkv.dtype, torch.int8)
        if self.library is None or not _has_rows(qkv) or not qkv.is_contiguous() or not is_known:
            return super().rotary_write(qkv, heads, norms, cos, sin, keys, values, slots)
        kv_heads = keys.shape[2]
        head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
        q_norm, k_norm, eps = norms or (None, None, 0.0)
        self.library.rotary_write(
            qkv.data_ptr(), len(qkv), heads, kv_heads, head_dim, _pointer(q_norm), _pointer(k_norm), eps,
            cos.data_ptr(), sin.data_ptr(), keys.data_ptr(), values.data_ptr(), slots.data_ptr(),
            qkv.dtype == torch.bfloat16, keys.dtype == torch.int8, torch.get_num_threads(),
        )  # fmt: skip
        q, k, v = torch.split(qkv.view(len(qkv), -1, head_dim), [heads, kv_heads, kv_heads], dim=1)
        return q, k, v

    def greedy(self, logits: Tensor) -> Tensor:
        if self.library is None or not _has_rows(logits) or not logits.is_contiguous():
            return super().greedy(logits)
        rows, size = logits.shape
        out = torch.empty(rows, dtype=torch.int64)
        is_narrow = logits.dtype == torch.bfloat16
        self.library.greedy(logits.data_ptr(), rows, size, out.data_ptr(), is_narrow, torch.get_num_threads())
        return out

    def sample(
        self, logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, seeds: Tensor, positions: Tensor
    ) -> Tensor:
        if self.library is None or logits.dtype != torch.float32 or not logits.is_contiguous():
            return super().sample(logits, top_k, top_p, min_p, seeds, positions)
        (rows, size), threads = logits.shape, torch.get_num_threads()
        given = [x.contiguous() for x in (top_k, top_p.double(), min_p.double(), seeds, positions)]
        keys, out = torch.empty(threads, size + 1, dtype=torch.int64), torch.empty(rows, dtype=torch.int64)
        pointers = (x.data_ptr() for x in (*given, keys, out))
        self.library.sample(logits.data_ptr(), rows, size, *pointers, threads)
        return out


def _has_rows(x: Tensor) -> bool:
    """Whether x is a matrix of a type that the native kernels know, with rows that are whole in memory."""
    return x.dtype in NATIVE and x.dim() == 2 and x.stride(1) == 1


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()
