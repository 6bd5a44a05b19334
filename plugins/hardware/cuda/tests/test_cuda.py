"""The platform, its kernels and its attention backend on a GPU."""

from __future__ import annotations

import pytest
import torch

from sgcore.testing.attention import AttentionSuite
from sgcore.testing.kernels import KernelSuite
from sgcore.testing.platforms import PlatformSuite
from sgcore_cuda.attention import CudaAttention
from sgcore_cuda.kernels import CudaKernels
from sgcore_cuda.platform import CudaPlatform

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DTYPES = (torch.float32, torch.bfloat16)


class TestPlatform(PlatformSuite):
    platform = CudaPlatform
    hooks = "sgcore_cuda.hooks"


class TestKernels(KernelSuite):
    kernels = CudaKernels()
    device = "cuda"
    dtypes = DTYPES


class TestAttention(AttentionSuite):
    backend = CudaAttention
    device = "cuda"
    dtypes = DTYPES
