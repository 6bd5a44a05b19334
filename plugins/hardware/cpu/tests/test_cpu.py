"""The CPU's platform, and its kernels and attention without the native library."""

from __future__ import annotations

import torch

from sgcore.testing.attention import AttentionSuite
from sgcore.testing.kernels import KernelSuite
from sgcore.testing.platforms import PlatformSuite
from sgcore_cpu.attention import TorchNativeAttention
from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.library import OFF
from sgcore_cpu.platform import CpuPlatform


class TestPlatform(PlatformSuite):
    platform = CpuPlatform
    hooks = "sgcore_cpu.hooks"


class TestKernels(KernelSuite):
    kernels = CpuKernels(OFF)
    dtypes = (torch.float32, torch.bfloat16)


class TestAttention(AttentionSuite):
    backend = TorchNativeAttention
    kernels = CpuKernels(OFF)
    dtypes = (torch.float32, torch.bfloat16)
    page_sizes = (16, 4)
    poison = 1e9
