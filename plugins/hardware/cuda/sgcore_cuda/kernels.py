"""What an NVIDIA GPU does better than Triton's kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from sgcore_cuda.products import Products
from sgcore_triton import narrow, skinny
from sgcore_triton.kernels import TritonKernels


class CudaKernels(TritonKernels):
    """Triton's kernels; products of many tokens by the library that is faster for the shape."""

    def __init__(self) -> None:
        self._products = Products()

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dtype == torch.float32 or skinny.is_skinny(x, weight) or narrow.takes(x, weight):
            return super().linear(x, weight, bias)
        return self._products.linear(x, weight, bias)
