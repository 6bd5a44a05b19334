"""`torch_native` against the textbook, on random page tables with poisoned pages around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgcore.api import CacheSpec, LayerCache
from sgcore.cache.pool import KVPool
from sgcore.runner.batch import ForwardBatch
from sgcore.runner.inputs import StepInputs
from sgcore_cpu import attention
from sgcore_cpu.attention import TorchNativeAttention
from sgcore_cpu.kernels import CpuKernels

PAGE = 4
HEAD_DIM = 8


class Case:
    """Rows with a history: `shared` pages in common, `decode` lengths, then `(cached, new)` chunks."""

    def __init__(
        self, decode: list[int], chunks: list[tuple[int, int]], shared: int, heads: int, kv_heads: int, seed: int
    ) -> None:
        random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        news = [1] * len(decode) + [new for _, new in chunks]
        lengths = decode + [cached + new for cached, new in chunks]
        width = -(-max(lengths) // PAGE) + 1
        pages = 1 + random.permutation(len(lengths) * width).reshape(len(lengths), width)
        for row, length in enumerate(lengths):
            common = min(shared, (length - news[row]) // PAGE)
            pages[row, :common] = pages[0, :common]
        self.pool = KVPool(
            CacheSpec((LayerCache(kv_heads, HEAD_DIM),)), pages.size + 1, PAGE, torch.float32, torch.device("cpu")
        )
        starts = np.concatenate(([0], np.cumsum(news)))
        positions = np.concatenate([np.arange(n - new, n) for n, new in zip(lengths, news, strict=True)])
        rows = np.repeat(np.arange(len(lengths)), news)
        slots = pages[rows, positions // PAGE] * PAGE + positions % PAGE
        table = pages.astype(np.int32)
        self.slots = torch.from_numpy(slots)
        self.batch = ForwardBatch(
            positions=torch.from_numpy(positions),
            slots=self.slots,
            decode_rows=len(decode),
            rows=np.arange(len(lengths)),
            starts=starts[:-1],
            counts=np.array(news),
            lengths=np.array(lengths),
            page_table=table,
            pages=torch.from_numpy(table),
            inputs=StepInputs(torch.device("cpu"), 0),
        )
        self.q = torch.randn(len(rows), heads, HEAD_DIM)
        self.k, self.v = torch.randn(2, len(rows), kv_heads, HEAD_DIM)
        for pool in (self.pool.keys[0], self.pool.values[0]):
            pool.normal_()
            owned = torch.zeros(pool.shape[0], dtype=torch.bool)
            owned[torch.from_numpy(np.concatenate([pages[i, : -(-n // PAGE)] for i, n in enumerate(lengths)]))] = True
            pool[~owned] = 1e9

    def result(self, window: int | None) -> torch.Tensor:
        backend = TorchNativeAttention(self.pool, CpuKernels())
        backend.plan(self.batch)
        backend.kernels.write_kv(self.pool.keys[0], self.pool.values[0], self.k, self.v, self.slots)
        return backend.forward(self.q, self.k, self.v, 0, 0.3, window, self.batch)

    def textbook(self, window: int | None) -> torch.Tensor:
        """One row and one head at a time, after the keys and values are in the pool."""
        out = torch.full_like(self.q, float("nan"))
        group = self.q.shape[1] // self.k.shape[1]
        for row, length in enumerate(self.batch.lengths):
            table = torch.from_numpy(self.batch.page_table[row].astype(np.int64))
            keys, values = (pool[table].flatten(0, 1)[:length] for pool in (self.pool.keys[0], self.pool.values[0]))
            begin = self.batch.starts[row]
            end = begin + self.batch.counts[row]
            for place in range(begin, end):
                position = length - (end - place)
                first = 0 if window is None else max(0, position - window + 1)
                seen = slice(first, position + 1)
                for head in range(self.q.shape[1]):
                    scores = (keys[seen, head // group] @ self.q[place, head]) * 0.3
                    out[place, head] = scores.softmax(0) @ values[seen, head // group]
        return out


@settings(max_examples=60, deadline=None)
@given(
    decode=st.lists(st.integers(1, 90), max_size=7),
    chunks=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=3),
    shared=st.integers(0, 12),
    heads=st.sampled_from([(4, 4), (6, 2), (3, 1)]),
    window=st.sampled_from([None, 1, 7, 64]),
    seed=st.integers(0, 1000),
)
def test_any_mix_of_rows(
    decode: list[int],
    chunks: list[tuple[int, int]],
    shared: int,
    heads: tuple[int, int],
    window: int | None,
    seed: int,
) -> None:
    if not decode and not chunks:
        return
    case = Case(decode, chunks, shared, *heads, seed)
    torch.testing.assert_close(case.result(window), case.textbook(window), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("most", [16, 200])
def test_a_shared_prefix_is_read_once(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "GATHERED_TOKENS", most)
    case = Case([45, 50, 47, 90, 3], [], 9, 6, 2, 5)
    torch.testing.assert_close(case.result(None), case.textbook(None), atol=2e-5, rtol=2e-5)
    groups = case.batch.attention.groups
    assert any(group.shared == 9 for group in groups) == (most == 200)
    assert sorted(int(row) for group in groups for row in group.rows) == [0, 1, 2, 3, 4]
