"""The suites at every level of the processor that this machine runs; test_cpu.py has them without the library."""

from __future__ import annotations

import pytest
import torch

from sgcore.testing.attention import HEADS, PREFIX, AttentionCase, AttentionSuite
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

    @pytest.mark.parametrize("heads", HEADS, ids=str)
    def test_integers_are_read_where_they_are(self, heads: tuple[int, int], dtype: torch.dtype) -> None:
        types = {"dtype": dtype, "cache_dtype": torch.int8, "heads": heads, "shared": {1: PREFIX, 2: PREFIX}}
        for head_dim, window, page_tokens in ((64, None, 16), (80, 40, 4)):
            traits = {"head_dim": head_dim, "page_tokens": page_tokens, **types}
            case = self.case([600, 270, 280, 5, 64], [(33, 40), (0, 20)], **traits)
            assert self.open(case).can_capture, "the native library computes it"
            self.check(case, window)

    def test_floats_of_64_bits_over_integers(self) -> None:
        self.check(self.case([70, 3], [(0, 20)], dtype=torch.float64, cache_dtype=torch.int8))

    def test_a_head_that_fits_no_vector_is_torchs(self) -> None:
        case = self.case([40, 3], [(20, 9)], head_dim=24, poison=1e9)
        assert isinstance(case, AttentionCase)
        self.check(case)
