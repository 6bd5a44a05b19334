"""The operations of `Kernels` in Triton, for the devices that it compiles for."""

from __future__ import annotations

import torch
from torch import Tensor

from sgcore.kernels import PACK_BLOCK, Block, Kernels
from sgcore_triton import draw, float8, integers, narrow, norms, rotary, sampling, skinny, skinny_int
from sgcore_triton.targets import runs_here


class TritonKernels(Kernels):
    """Overrides that read memory once and wait for nothing, so that a step can be captured.

    Weights must not change between launches without a synchronisation: a kernel reads them before its predecessor ends.
    """

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if runs_here(x) and skinny.is_skinny(x, weight):
            return skinny.multiply(x, weight, bias)[0]
        if narrow.takes(x, weight):
            return narrow.linear(x, weight, bias)
        return super().linear(x, weight, bias)

    def quantize_fp8(self, x: Tensor, scale: Tensor | None = None, group: int | None = None) -> tuple[Tensor, Tensor]:
        if float8.takes_rounding(x, group):
            return float8.quantize(x, scale, group)
        return super().quantize_fp8(x, scale, group)

    def linear_fp8(
        self,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        block: Block | None = None,
        input_scale: Tensor | None = None,
    ) -> Tensor:
        if skinny.takes_float8(x, weight, block):
            return skinny.multiply(x, weight, bias, scale=scale, block=block)[0]
        return super().linear_fp8(x, weight, scale, bias, block, input_scale)

    def add_norm_linear_fp8(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm: Tensor,
        eps: float,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        block: Block | None = None,
        input_scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        added = (norm, residual, eps)
        if skinny.takes_float8(x, weight, block, added):
            return skinny.multiply(x, weight, bias, added, scale=scale, block=block)
        return super().add_norm_linear_fp8(x, residual, norm, eps, weight, scale, bias, block, input_scale)

    def add_norm_gated_fp8(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm: Tensor,
        eps: float,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        block: Block | None = None,
        input_scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        added = (norm, residual, eps)
        if skinny.takes_float8(x, weight, block, added):
            return skinny.multiply(x, weight, bias, added, is_gated=True, scale=scale, block=block)
        return super().add_norm_gated_fp8(x, residual, norm, eps, weight, scale, bias, block, input_scale)

    def add_norm_fp8(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm: Tensor,
        eps: float,
        scale: Tensor | None = None,
        group: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if float8.takes_rounding(x, group) and norms.takes(x, residual):
            return float8.add_norm(x, residual, norm, eps, scale, group)
        return super().add_norm_fp8(x, residual, norm, eps, scale, group)

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
        if float8.takes(x, weight, block):
            return float8.product(x, rates, weight, scale, dtype, bias, block)
        return super().product_fp8(x, rates, weight, scale, dtype, bias, block)

    def gated_fp8(
        self,
        x: Tensor,
        rates: Tensor,
        weight: Tensor,
        scale: Tensor,
        dtype: torch.dtype,
        bias: Tensor | None = None,
        block: Block | None = None,
    ) -> Tensor:
        if float8.takes(x, weight, block) and float8.gates(x, weight, block):
            return float8.product(x, rates, weight, scale, dtype, bias, block, is_gated=True)
        return super().gated_fp8(x, rates, weight, scale, dtype, bias, block)

    def pack_scales(self, scales: Tensor, zeros: Tensor | None, bits: int) -> tuple[Tensor, Tensor | None]:
        if runs_here(scales) and integers.has_words(zeros):
            return integers.pack_scales(scales, zeros, bits), None
        return super().pack_scales(scales, zeros, bits)

    def multiplies_packed(self, zeros: Tensor | None, group: int) -> bool:
        return group % PACK_BLOCK == 0 and integers.has_words(zeros)

    def linear_int(
        self,
        x: Tensor,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bits: int,
        bias: Tensor | None = None,
    ) -> Tensor:
        if not integers.takes(x, scales):
            return super().linear_int(x, weight, *_unpacked(scales, zeros), bits, bias)
        if skinny_int.takes(x):
            return skinny_int.multiply(x, weight, scales, bits, bias)[0]
        if x.shape[0] <= integers.MOST_TOKENS:
            return integers.linear(x, weight, scales, bits, bias)
        # So many tokens go to a library's kernel, which starts when its predecessor has ended.
        return self.linear(x, integers.widen(weight, scales, bits, x), bias)

    def gated_int(
        self,
        x: Tensor,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bits: int,
        bias: Tensor | None = None,
    ) -> Tensor:
        if integers.takes(x, scales) and x.shape[0] <= integers.MOST_TOKENS:
            if skinny_int.takes(x):
                return skinny_int.multiply(x, weight, scales, bits, bias, is_gated=True)[0]
            return integers.linear(x, weight, scales, bits, bias, is_gated=True)
        return super().gated_int(x, weight, scales, zeros, bits, bias)

    def add_norm_linear_int(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm: Tensor,
        eps: float,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bits: int,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        added = (norm, residual, eps)
        if integers.takes(x, scales) and skinny_int.takes(x, added):
            return skinny_int.multiply(x, weight, scales, bits, bias, added)
        return super().add_norm_linear_int(x, residual, norm, eps, weight, scales, zeros, bits, bias)

    def add_norm_gated_int(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm: Tensor,
        eps: float,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bits: int,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        added = (norm, residual, eps)
        if integers.takes(x, scales) and skinny_int.takes(x, added):
            return skinny_int.multiply(x, weight, scales, bits, bias, added, is_gated=True)
        return super().add_norm_gated_int(x, residual, norm, eps, weight, scales, zeros, bits, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return norms.rms_norm(x, weight, eps) if norms.takes(x) else super().rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        if norms.takes(x, residual):
            return norms.add_rms_norm(x, residual, weight, eps)
        return super().add_rms_norm(x, residual, weight, eps)

    def add_norm_linear(
        self, x: Tensor, residual: Tensor | None, norm: Tensor, eps: float, weight: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if runs_here(x) and skinny.norms_too(x, residual, weight):
            return skinny.multiply(x, weight, bias, (norm, residual, eps))
        return super().add_norm_linear(x, residual, norm, eps, weight, bias)

    def add_norm_gated(
        self, x: Tensor, residual: Tensor | None, norm: Tensor, eps: float, weight: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if runs_here(x) and skinny.norms_too(x, residual, weight):
            return skinny.multiply(x, weight, bias, (norm, residual, eps), is_gated=True)
        if narrow.takes(x, weight):
            normed, total = self.add_norm(x, residual, norm, eps)
            return narrow.linear(normed, weight, bias, is_gated=True), total
        return super().add_norm_gated(x, residual, norm, eps, weight, bias)

    def silu_mul(self, x: Tensor) -> Tensor:
        return norms.silu_mul(x) if norms.takes_gated(x) else super().silu_mul(x)

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
        if rotary.takes(qkv, keys, values):
            return rotary.rotary_write(qkv, heads, norms, cos, sin, keys, values, slots)
        return super().rotary_write(qkv, heads, norms, cos, sin, keys, values, slots)

    def penalise(
        self,
        logits: Tensor,
        output_counts: Tensor,
        is_seen: Tensor,
        frequency: Tensor,
        presence: Tensor,
        repetition: Tensor,
    ) -> Tensor:
        if sampling.takes(logits):
            return sampling.penalise(logits, output_counts, is_seen, frequency, presence, repetition)
        return super().penalise(logits, output_counts, is_seen, frequency, presence, repetition)

    def mask_logits(self, logits: Tensor, rows: Tensor, masks: Tensor) -> Tensor:
        if sampling.takes(logits):
            return sampling.mask_logits(logits, rows, masks)
        return super().mask_logits(logits, rows, masks)

    def greedy(self, logits: Tensor) -> Tensor:
        return sampling.greedy(logits) if sampling.takes(logits) else super().greedy(logits)

    def sample(
        self, logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, seeds: Tensor, positions: Tensor
    ) -> Tensor:
        if sampling.takes(logits):
            return draw.sample(logits, top_k, top_p, min_p, seeds, positions)
        return super().sample(logits, top_k, top_p, min_p, seeds, positions)

    def logprobs(self, logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
        return (
            sampling.logprobs(logits, tokens, top) if sampling.takes(logits) else super().logprobs(logits, tokens, top)
        )


def _unpacked(scales: Tensor, zeros: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return integers.unpack_scales(scales) if scales.dtype == torch.int32 else (scales, zeros)
