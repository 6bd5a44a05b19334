"""Each override against the reference."""

from __future__ import annotations

import torch

from sgcore.testing.kernels import KernelSuite
from sgcore_triton.kernels import TritonKernels

HAS_GPU = torch.cuda.is_available()


class TestKernels(KernelSuite):
    """The interpreter's products in bfloat16 are wrong."""

    kernels = TritonKernels()
    device = "cuda" if HAS_GPU else "cpu"
    dtypes = (torch.float32, torch.bfloat16 if HAS_GPU else torch.float16)
