"""`triton` attention against the textbook, interpreted, in pools that are NaN wherever nobody wrote."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgcore.api import CacheSpec, LayerCache
from sgcore.cache.pool import KVPool
from sgcore.kernels import Kernels
from sgcore.runner.batch import ForwardBatch, StaticSize
from sgcore.runner.inputs import StepInputs
from sgcore_triton.attention import TritonAttention

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="runs interpreted, on the host")
PAGE = 16
SCALE = 0.3
PREFIX = 256
"""The shortest prefix that rows share."""


class Case:
    """Rows with a history: decode lengths, then `(cached, new)` chunks; `shared`: tokens that rows share with row 0."""

    def __init__(
        self,
        decode: list[int],
        chunks: list[tuple[int, int]] = (),
        heads: tuple[int, int] = (4, 2),
        head_dim: int = 16,
        shared: dict[int, int] | None = None,
        size: StaticSize | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        random = np.random.default_rng()
        self.news = [1] * len(decode) + [new for _, new in chunks]
        lengths = np.array(decode + [cached + new for cached, new in chunks])
        counts = -(-lengths // PAGE)
        width = int(counts.max()) + 1
        table = 1 + random.permutation(len(lengths) * width).reshape(len(lengths), width).astype(np.int32)
        for row, tokens in (shared or {}).items():
            table[row, : tokens // PAGE] = table[0, : tokens // PAGE]
        self.heads, self.kv_heads = heads
        layer = LayerCache(self.kv_heads, head_dim)
        self.pool = KVPool(CacheSpec((layer,)), table.size + 1, PAGE, dtype, torch.device("cpu"))
        rows = np.arange(len(lengths))
        for pool in (self.pool.keys[0], self.pool.values[0]):
            pool.fill_(float("nan"))
            for row, length in zip(rows, lengths, strict=True):
                at = np.arange(length)
                slots = torch.from_numpy(table[row, at // PAGE].astype(np.int64) * PAGE + at % PAGE)
                pool.view(-1, *pool.shape[2:])[slots] = torch.randn(int(length), *pool.shape[2:]).to(dtype)
        tokens = sum(self.news) if size is None else size.tokens
        qkv = torch.randn(tokens, self.heads + 2 * self.kv_heads, head_dim).to(dtype)
        self.q, self.k, self.v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 1)
        starts = np.cumsum(self.news) - self.news
        if size is not None:
            starts[len(decode) :] += size.decode_rows - len(decode)
        for begin, new, row, length in zip(starts, self.news, rows, lengths, strict=True):
            here = slice(begin, begin + new)
            self.k[here], self.v[here] = (x[-new:] for x in self._row(row, length, table))
        # Rows stand anywhere in the runner's state.
        places = random.permutation(len(lengths) + 3)[: len(lengths)]
        pages = torch.zeros(len(lengths) + 3, width, dtype=torch.int32)
        pages[torch.from_numpy(places)] = torch.from_numpy(table)
        empty = torch.zeros(0, dtype=torch.int64)
        self.batch = ForwardBatch(
            positions=empty,
            slots=empty,
            decode_rows=len(decode),
            rows=places,
            starts=starts,
            counts=np.array(self.news),
            lengths=lengths,
            page_table=table,
            pages=pages,
            inputs=StepInputs(torch.device("cpu"), 0),
            size=size,
        )

    def _row(self, row: int, length: int, table: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        pages = torch.from_numpy(table[row].astype(np.int64))
        return tuple(pool[pages].flatten(0, 1)[:length] for pool in (self.pool.keys[0], self.pool.values[0]))

    def backend(self, kind: type[TritonAttention] = TritonAttention) -> TritonAttention:
        return kind(self.pool, Kernels())

    def textbook(self, window: int | None = None, softcap: float | None = None) -> torch.Tensor:
        """float64, one row at a time with a full mask."""
        out = []
        for row, (length, new) in enumerate(zip(self.batch.lengths, self.news, strict=True)):
            keys, values = (x.double() for x in self._row(row, length, self.batch.page_table))
            begin = self.batch.starts[row]
            q = self.q[begin : begin + new].double().unflatten(1, (self.kv_heads, -1))
            scores = torch.einsum("tkgd,skd->kgts", q, keys) * SCALE
            if softcap:
                scores = softcap * torch.tanh(scores / softcap)
            position, at = torch.arange(length - new, length)[:, None], torch.arange(length)
            hidden = (at > position) | (at <= position - (window or length))
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            out.append(torch.einsum("kgts,skd->tkgd", weights, values).flatten(1, 2))
        return torch.cat(out)

    def check(self, backend: TritonAttention, window: int | None = None, softcap: float | None = None) -> None:
        backend.plan(self.batch)
        actual = backend.forward(self.q, self.k, self.v, 0, SCALE, window, self.batch, softcap)
        assert actual.dtype == self.q.dtype
        expected = self.textbook(window, softcap)
        begins = zip(self.batch.starts, self.news, strict=True)
        mine = torch.cat([actual[begin : begin + new] for begin, new in begins]).double()
        error = (mine - expected).norm() / expected.norm()
        assert error < (1e-5 if self.q.dtype == torch.float32 else 3e-3)


HEADS = [(3, 3), (4, 2), (6, 2), (5, 1)]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("window", [None, 1, 40, 150])
def test_rows_of_any_length_decode(heads: tuple[int, int], window: int | None) -> None:
    case = Case([1, 15, 16, 17, 64, 129, 300], heads=heads)
    case.check(case.backend(), window)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("window", [None, 1, 40])
def test_chunks_see_what_is_cached(heads: tuple[int, int], window: int | None) -> None:
    case = Case([], [(0, 5), (16, 16), (0, 140), (70, 33), (31, 1)], heads)
    case.check(case.backend(), window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_decode_rows_and_chunks_in_one_batch(dtype: torch.dtype) -> None:
    case = Case([70, 3, 200], [(33, 20), (0, 2), (90, 1)], dtype=dtype)
    case.check(case.backend())
    case.check(case.backend(), 30)


@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
def test_head_dimensions(head_dim: int) -> None:
    case = Case([40, 150], [(20, 9)], (2, 1), head_dim)
    case.check(case.backend())


def test_soft_capped_scores() -> None:
    case = Case([150, 20], [(10, 9)])
    case.check(case.backend(), None, 2.5)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_shared_prefix(heads: tuple[int, int], window: int | None, dtype: torch.dtype) -> None:
    case = Case([300, 270, 273, 40, 410], heads=heads, shared={1: 256, 2: 270, 4: 256}, dtype=dtype)
    backend = case.backend()
    assert backend.variant(case.batch)
    case.check(backend, window)


def test_a_window_that_begins_behind_a_shared_prefix() -> None:
    """Pieces begin at a page, not at a step of keys: the window may begin within a step but behind a piece's end."""
    case = Case([480, 436, 440, 500], shared=dict.fromkeys(range(1, 4), 272))
    case.check(case.backend(), 70)


def test_prefixes_within_a_prefix() -> None:
    case = Case([600, 580, 300, 590, 300], shared={1: 576, 2: 256, 3: 560, 4: 256})
    backend = case.backend()
    case.check(backend)
    assert len(backend._find_groups(case.batch, np.arange(5)).count) == 2


def test_more_rows_share_than_a_tile_holds() -> None:
    case = Case([257] * 35, heads=(2, 1), shared=dict.fromkeys(range(1, 35), 256))
    case.check(case.backend())


def test_groups_are_kept_while_they_hold() -> None:
    case = Case([300, 300, 300, 300], shared={1: 288, 2: 288, 3: 288})
    backend, everyone = case.backend(), np.arange(4)
    first = backend._find_groups(case.batch, everyone)
    assert backend._find_groups(case.batch, everyone) is first
    # Another request at row 3 shares less of the same prefix, and starts with the same pages.
    case.batch.page_table[3, 16:18] = 0
    assert backend._find_groups(case.batch, everyone).end.tolist() == [16]
    case.batch.lengths[:] = 200
    assert backend._find_groups(case.batch, everyone) is None


@pytest.mark.parametrize("shared", [None, {1: 256, 2: 256}])
def test_a_static_batch_is_planned_for_its_size(shared: dict[int, int] | None) -> None:
    sizes = []
    for lengths in ([300, 290, 260, 5], [270, 257, 280]):
        case = Case(lengths, shared=shared, size=StaticSize(8, 0, 0))
        backend = case.backend()
        assert backend.variant(case.batch) == bool(shared)
        case.check(backend)
        decode = case.batch.attention.decode
        parts = (decode.own, decode.shared, decode.members)
        sizes.append([None if x is None else len(x) for x in parts] + [decode.partials])
        # The last program of a row to finish has cleared its counter.
        assert not decode.arrived.any()
    assert sizes[0] == sizes[1]


class Dense(TritonAttention):
    dense_tokens = 32


@pytest.mark.parametrize("window", [None, 20])
def test_whole_chunks_may_be_dense(window: int | None) -> None:
    case = Case([20], [(0, 40), (16, 40), (0, 31), (0, 32)])
    backend = case.backend(Dense)
    case.check(backend, window)
    assert len(case.batch.attention.prefill.dense) == 2


@pytest.mark.parametrize("shared", [None, {1: 256, 2: 256}])
def test_a_static_batch_with_chunks(shared: dict[int, int] | None) -> None:
    sizes = []
    for chunks in ([(0, 40), (33, 70), (20, 1)], [(130, 129)]):
        case = Case([300, 290, 260], chunks, shared=shared, size=StaticSize(8, 160, 4))
        case.check(case.backend())
        prepared = case.batch.attention
        sizes.append((len(prepared.decode.own), len(prepared.prefill.tiles), prepared.prefill.paged))
    assert sizes[0] == sizes[1]
    case = Case([], [(0, 40), (33, 70)], size=StaticSize(0, 128, 4))
    case.check(case.backend())
