"""The suites at every level of the processor that this machine runs; test_cpu.py has them without the library."""

from __future__ import annotations

import pytest
import torch

from sgcore.testing.attention import AttentionCase, AttentionSuite
from sgcore.testing.kernels import KernelSuite
from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.library import usable_levels
from sgcore_cpu.paged import NativeAttention

TYPES = (torch.float32, torch.bfloat16)
LEVELS = usable_levels()


@pytest.mark.parametrize("level", [pytest.param(level, id=level) for level in LEVELS])
class AtEachLevel:
    """`kernels` of the parameter `level`, in a suite."""

    @pytest.fixture(autouse=True)
    def at_the_level(self, level: str) -> None:
        type(self).kernels = CpuKernels(level)  # type: ignore[attr-defined]


class TestKernels(AtEachLevel, KernelSuite):
    dtypes = TYPES


class TestAttention(AtEachLevel, AttentionSuite):
    backend = NativeAttention
    cache_poison = 1e9
    dtypes = TYPES
    page_sizes = (16, 4)

    def test_a_long_row_is_read_in_pieces(self) -> None:
        case = self.case([2900, 7], heads=(4, 2))
        self.check(case)
        (call,) = case.batch.attention.calls.values()
        assert len(call.made.merged) == 1 and len(call.made.parts) > 2

    def test_a_head_that_fits_no_vector_is_torchs(self) -> None:
        case = self.case([40, 3], [(20, 9)], head_dim=24, poison=1e9)
        assert isinstance(case, AttentionCase)
        self.check(case)
