"""What an NVIDIA GPU does better than Triton's kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from sgcore.kernels import Block
from sgcore_cuda.products import Products
from sgcore_triton import narrow, skinny
from sgcore_triton.kernels import TritonKernels
from sgcore_triton.targets import has_float8

LIBRARY_TOKENS = 65
"""Products of 8-bit floats of so many tokens are the library's: 8,192 tokens of a layer of 8B took 4.1 ms in Triton's
kernel on one H100, and take 2.6 (`bench/gpu_products.py`)."""


class CudaKernels(TritonKernels):
    """Triton's kernels; products of many tokens by the library that is faster for the shape."""

    def __init__(self) -> None:
        self._products = Products()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dtype == torch.float32 or skinny.is_skinny(x, weight) or narrow.takes(x, weight):
            return super().linear(x, weight, bias)
        return self._products.linear(x, weight, bias)

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
        is_whole = block is None and dtype == torch.bfloat16 and not (weight.shape[0] | weight.shape[1]) % 16
        if len(x) < LIBRARY_TOKENS or not is_whole or not has_float8(x):
            return super().product_fp8(x, rates, weight, scale, dtype, bias, block)
        rates = rates.expand(len(x), 1).contiguous()
        return torch._scaled_mm(
            x, weight.t(), rates, scale.view(1, -1), bias=bias, out_dtype=dtype, use_fast_accum=True
        )
