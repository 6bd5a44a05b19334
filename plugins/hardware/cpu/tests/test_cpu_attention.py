"""Beside the suite: how decode rows are grouped."""

from __future__ import annotations

import pytest

from sgcore.testing.attention import AttentionCase
from sgcore_cpu import attention
from sgcore_cpu.kernels import CpuKernels


@pytest.mark.parametrize("most", [16, 200])
def test_a_shared_prefix_is_read_once(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "GATHERED_TOKENS", most)
    shared = dict.fromkeys(range(1, 4), 36)
    case = AttentionCase([45, 50, 47, 90, 3], heads=(6, 2), shared=shared, page_tokens=4, poison=1e9)
    case.check(attention.TorchNativeAttention(case.pool, CpuKernels()))
    groups = case.batch.attention.groups
    assert any(group.shared == 9 for group in groups) == (most == 200)
    assert sorted(int(row) for group in groups for row in group.rows) == [0, 1, 2, 3, 4]
