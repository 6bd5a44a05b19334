"""The backend `triton`, interpreted: the suite, and what it does beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sgcore.errors import LaunchError
from sgcore.kernels import FLOAT8, Kernels
from sgcore.runner.batch import StaticSize
from sgcore.testing.attention import SCALE, AttentionCase, AttentionSuite
from sgcore_triton.attention import TritonAttention

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="runs interpreted, on the host")


class TestTriton(AttentionSuite):
    backend = TritonAttention
    dtypes = (torch.float32, torch.float16)


class Dense(TritonAttention):
    dense_tokens = 32


def opened(case: AttentionCase, kind: type[TritonAttention] = TritonAttention) -> TritonAttention:
    return kind(case.pool, Kernels())


def test_a_host_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgcore_triton.attention.runs_here", lambda x: False)
    with pytest.raises(LaunchError, match="needs a GPU"):
        opened(AttentionCase([20]))


def test_a_cache_of_8_bits_needs_a_device_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgcore_triton.attention.has_float8", lambda x: False)
    opened(AttentionCase([20]))
    with pytest.raises(LaunchError, match="no 8-bit floats"):
        opened(AttentionCase([20], cache_dtype=FLOAT8))


def test_soft_capped_scores() -> None:
    case, cap = AttentionCase([150, 20], [(10, 9)]), 2.5
    backend = opened(case)
    case.plan(backend)
    out = backend.forward(case.q, case.k, case.v, 0, SCALE, None, case.batch, cap)
    torch.testing.assert_close(out.double(), case.textbook(softcap=cap), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shared, levels", [({1: 256, 2: 256}, 1), ({1: 576, 2: 256, 3: 560, 4: 256}, 2)])
def test_shared_prefixes_are_found(shared: dict[int, int], levels: int) -> None:
    case = AttentionCase([600, 580, 300, 590, 300], shared=shared)
    backend = opened(case)
    assert backend.variant(case.batch)
    assert len(backend._find_groups(case.batch, np.arange(5)).count) == levels


def test_groups_are_kept_while_they_hold() -> None:
    case = AttentionCase([300, 300, 300, 300], shared={1: 288, 2: 288, 3: 288})
    backend, everyone = opened(case), np.arange(4)
    first = backend._find_groups(case.batch, everyone)
    assert backend._find_groups(case.batch, everyone) is first
    # Another request at row 3 shares less of the same prefix, and starts with the same pages.
    case.batch.page_table[3, 16:18] = 0
    assert backend._find_groups(case.batch, everyone).end.tolist() == [16]
    case.batch.lengths[:] = 200
    assert backend._find_groups(case.batch, everyone) is None


def sizes(prepared: Any) -> list[int | None]:
    """What a captured graph takes for granted of a plan."""
    decode, prefill = prepared.decode, prepared.prefill
    lists = (decode.own, decode.shared, decode.members, prefill and prefill.tiles)
    return [None if x is None else len(x) for x in lists] + [decode.partials]


@pytest.mark.parametrize("shared", [None, {1: 256, 2: 256}])
def test_a_static_batch_is_planned_for_its_size(shared: dict[int, int] | None) -> None:
    for size, one, other in (
        (StaticSize(8, 0, 0), ([300, 290, 260, 5], []), ([270, 257, 280], [])),
        (StaticSize(8, 160, 4), ([300, 290, 260], [(0, 40), (33, 70), (20, 1)]), ([300, 290, 260], [(130, 129)])),
    ):
        found = []
        for decode, chunks in (one, other):
            case = AttentionCase(decode, chunks, shared=shared, size=size)
            backend = opened(case)
            assert backend.variant(case.batch) == bool(shared)
            case.check(backend)
            found.append(sizes(case.batch.attention))
            # The last program of a row to finish has cleared its counter.
            assert not case.batch.attention.decode.arrived.any()
        assert found[0] == found[1]


@pytest.mark.parametrize("window", [None, 20])
def test_whole_chunks_may_be_dense(window: int | None) -> None:
    case = AttentionCase([20], [(0, 40), (16, 40), (0, 31), (0, 32)])
    case.check(opened(case, Dense), window)
    assert len(case.batch.attention.prefill.dense) == 2
