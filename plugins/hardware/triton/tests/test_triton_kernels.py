"""Each override against the reference, interpreted where there is no GPU."""

from __future__ import annotations

import torch

from sgcore.testing.kernels import KernelSuite
from sgcore_triton.kernels import TritonKernels

HAS_GPU = torch.cuda.is_available()


class TestKernels(KernelSuite):
    kernels = TritonKernels()
    device = "cuda" if HAS_GPU else "cpu"
    # The interpreter's products in bfloat16 are wrong.
    dtypes = (torch.float32, torch.bfloat16 if HAS_GPU else torch.float16)
