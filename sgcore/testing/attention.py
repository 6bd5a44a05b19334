"""What every attention backend has to pass: the textbook's result, in pools that are NaN wherever nobody wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from sgcore.api import AttentionBackend, CacheSpec, LayerCache
from sgcore.cache.pool import KVPool
from sgcore.cache.rows import narrowed, widened
from sgcore.kernels import Kernels
from sgcore.runner.batch import ForwardBatch, StaticSize
from sgcore.runner.inputs import StepInputs

SCALE = 0.3
INPUT_BYTES = 1 << 20
HEADS = [(3, 3), (4, 2), (6, 2), (5, 1)]
"""Query heads and kv heads: each its own, shared by two and three, one for all."""
PREFIX = 256
"""A prefix long enough to be read once for all rows that share it."""


class AttentionCase:
    """A step over random pages: rows that decode, then chunks.

    decode: tokens of each decoding row. chunks: (cached, new) tokens of each chunk. shared: tokens that a row has in
    common with row 0, by row. size: of a static batch.
    """

    def __init__(
        self,
        decode: Sequence[int],
        chunks: Sequence[tuple[int, int]] = (),
        *,
        heads: tuple[int, int] = (4, 2),
        head_dim: int = 16,
        shared: Mapping[int, int] | None = None,
        size: StaticSize | None = None,
        dtype: torch.dtype = torch.float32,
        cache_dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        page_tokens: int = 16,
        poison: float = math.nan,
    ) -> None:
        self._random = np.random.default_rng()
        self.page_tokens, self.heads, self.kv_heads = page_tokens, *heads
        self.news = [1] * len(decode) + [new for _, new in chunks]
        self.lengths = np.array([*decode, *(cached + new for cached, new in chunks)])
        self.device = torch.device(device)
        self.table = self._page_table(shared or {})
        self.dtype = dtype
        spec = CacheSpec((LayerCache(self.kv_heads, head_dim),))
        self.pool = KVPool(spec, self.table.size + 1, page_tokens, cache_dtype or dtype, self.device)
        self._fill_pool(poison)
        self._draw_tokens(len(decode), head_dim, size)
        self.batch = self._batch(len(decode), size)

    def _page_table(self, shared: Mapping[int, int]) -> np.ndarray[Any, Any]:
        rows, width = len(self.lengths), int(self.lengths.max()) // self.page_tokens + 2
        table = 1 + self._random.permutation(rows * width).reshape(rows, width).astype(np.int32)
        for row, tokens in shared.items():
            table[row, : tokens // self.page_tokens] = table[0, : tokens // self.page_tokens]
        return table

    def _fill_pool(self, poison: float) -> None:
        for pool in self.pool.tensors():
            shape = (self.kv_heads, self.pool.layers[0].head_dim)
            pool.copy_(narrowed(torch.full(shape, poison), pool.dtype))
            flat = pool.flatten(0, 1)
            for pages, length in zip(self.table, self.lengths, strict=True):
                at = np.arange(length)
                slots = pages[at // self.page_tokens].astype(np.int64) * self.page_tokens + at % self.page_tokens
                drawn = torch.randn(len(at), *shape)
                flat[torch.from_numpy(slots).to(self.device)] = narrowed(drawn, pool.dtype).to(self.device)

    def _draw_tokens(self, decode_rows: int, head_dim: int, size: StaticSize | None) -> None:
        tokens = sum(self.news) if size is None else size.tokens
        qkv = torch.randn(tokens, self.heads + 2 * self.kv_heads, head_dim).to(self.device, self.dtype)
        self.q, self.k, self.v = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], 1)
        self.starts = np.cumsum(self.news) - self.news
        if size is not None:
            self.starts[decode_rows:] += size.decode_rows - decode_rows
        for row, (begin, new) in enumerate(zip(self.starts, self.news, strict=True)):
            here = slice(begin, begin + new)
            self.k[here], self.v[here] = (x[-new:].to(self.dtype) for x in self._row(row))

    def _batch(self, decode_rows: int, size: StaticSize | None) -> ForwardBatch:
        # Rows stand anywhere in the runner's state.
        places = self._random.permutation(len(self.lengths) + 3)[: len(self.lengths)]
        pages = torch.zeros(len(self.lengths) + 3, self.table.shape[1], dtype=torch.int32)
        pages[torch.from_numpy(places)] = torch.from_numpy(self.table)
        positions = np.zeros(len(self.q), np.int64)
        for begin, new, length in zip(self.starts, self.news, self.lengths, strict=True):
            positions[begin : begin + new] = np.arange(length - new, length)
        return ForwardBatch(
            positions=torch.from_numpy(positions).to(self.device),
            slots=torch.zeros(len(self.q), dtype=torch.int64, device=self.device),
            decode_rows=decode_rows,
            rows=places,
            starts=self.starts,
            counts=np.array(self.news),
            lengths=self.lengths,
            page_table=self.table,
            pages=pages.to(self.device),
            inputs=StepInputs(self.device, INPUT_BYTES),
            size=size,
        )

    def _row(self, row: int) -> tuple[torch.Tensor, ...]:
        """A row's keys and values (tokens, kv_heads, head_dim), float64."""
        pages = torch.from_numpy(self.table[row].astype(np.int64)).to(self.device)
        rows = (pool[pages].flatten(0, 1)[: int(self.lengths[row])] for pool in self.pool.tensors())
        return tuple(widened(x, torch.float64) for x in rows)

    def plan(self, backend: AttentionBackend) -> None:
        """The host's part of a step, as the runner does it."""
        self.batch.inputs.begin()
        backend.plan(self.batch)
        self.batch.inputs.send()

    def attend(self, backend: AttentionBackend, window: int | None = None) -> torch.Tensor:
        """What the backend computes for the tokens that are in use."""
        out = backend.forward(self.q, self.k, self.v, 0, SCALE, window, self.batch)
        assert out.dtype == self.q.dtype
        return torch.cat([out[begin : begin + new] for begin, new in zip(self.starts, self.news, strict=True)])

    def textbook(self, window: int | None = None, softcap: float | None = None) -> torch.Tensor:
        """The same in float64, one row at a time with its whole mask; scores may be capped by tanh."""
        out = []
        for row, (begin, new) in enumerate(zip(self.starts, self.news, strict=True)):
            length = int(self.lengths[row])
            keys, values = self._row(row)
            q = self.q[begin : begin + new].double()
            q = q.view(new, self.kv_heads, -1, q.shape[2])
            scores = torch.einsum("tkgd,skd->kgts", q, keys) * SCALE
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            position = torch.arange(length - new, length, device=self.device)[:, None]
            at = torch.arange(length, device=self.device)
            hidden = (at > position) | (at <= position - (window or length))
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            out.append(torch.einsum("kgts,skd->tkgd", weights, values).flatten(1, 2))
        return torch.cat(out)

    def check(self, backend: AttentionBackend, window: int | None = None) -> None:
        """Plan, attend and compare; the error is relative to the length of the result."""
        self.plan(backend)
        expected = self.textbook(window)
        error = (self.attend(backend, window).double() - expected).norm() / expected.norm()
        bound = {torch.float16: 3e-3, torch.bfloat16: 1e-2}.get(self.q.dtype, 1e-5)
        assert error < bound, f"relative error {error:.2e}, at most {bound:.0e} is allowed"


class AttentionSuite:
    """Inherit it, call the class `Test...` and set `backend`; the traits say what it can do."""

    backend: ClassVar[type[AttentionBackend]]
    kernels: ClassVar[Kernels] = Kernels()
    device: ClassVar[str] = "cpu"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32,)
    head_dims: ClassVar[tuple[int, ...]] = (64, 80, 128, 256)
    page_sizes: ClassVar[tuple[int, ...]] = (16,)
    poison: ClassVar[float] = math.nan
    """What stands in the pool where nobody wrote; at least 1e9 for a backend that reads it and weighs it with zero."""
    cache_poison: ClassVar[float | None] = None
    """The same for keys and values of other types, where it differs."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Each test once for every value of the traits that it names."""
        for name, values in (("dtype", self.dtypes), ("head_dim", self.head_dims), ("page_tokens", self.page_sizes)):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, values, ids=str)

    def case(self, *args: Any, **kwargs: Any) -> AttentionCase:
        """An `AttentionCase` on the suite's device."""
        traits = {"device": self.device, "page_tokens": self.page_sizes[0], "poison": self.poison}
        return AttentionCase(*args, **{**traits, **kwargs})

    def open(self, case: AttentionCase) -> AttentionBackend:
        """The backend over a case's pool."""
        return self.backend(case.pool, self.kernels)

    def check(self, case: AttentionCase, window: int | None = None) -> None:
        case.check(self.open(case), window)

    @pytest.mark.parametrize("heads", HEADS, ids=str)
    @pytest.mark.parametrize("window", [None, 1, 40, 150])
    def test_rows_of_any_length_decode(self, heads: tuple[int, int], window: int | None) -> None:
        self.check(self.case([1, 15, 16, 17, 64, 129, 300], heads=heads), window)

    @pytest.mark.parametrize("heads", HEADS, ids=str)
    @pytest.mark.parametrize("window", [None, 1, 40])
    def test_chunks_see_what_is_cached(self, heads: tuple[int, int], window: int | None) -> None:
        self.check(self.case([], [(0, 5), (16, 16), (0, 140), (70, 33), (31, 1)], heads=heads), window)

    def test_decode_rows_and_chunks_in_one_batch(self, dtype: torch.dtype, page_tokens: int) -> None:
        for window in (None, 30):
            case = self.case([70, 3, 200], [(33, 20), (0, 2), (90, 1)], dtype=dtype, page_tokens=page_tokens)
            self.check(case, window)

    def test_head_dimensions(self, head_dim: int, dtype: torch.dtype) -> None:
        self.check(self.case([40, 150], [(20, 9)], heads=(2, 1), head_dim=head_dim, dtype=dtype))

    @pytest.mark.parametrize("heads", HEADS, ids=str)
    @pytest.mark.parametrize("window", [None, 100])
    def test_a_shared_prefix(self, heads: tuple[int, int], window: int | None, dtype: torch.dtype) -> None:
        shared = {1: PREFIX, 2: 270, 4: PREFIX}
        self.check(self.case([300, 270, 273, 40, 410], heads=heads, shared=shared, dtype=dtype), window)

    def test_a_window_that_begins_behind_a_shared_prefix(self) -> None:
        """A piece of a row begins at a page: the window may begin within a step over keys, behind the piece's end."""
        self.check(self.case([480, 436, 440, 500], shared=dict.fromkeys(range(1, 4), 272)), 70)

    def test_prefixes_within_a_prefix(self) -> None:
        self.check(self.case([600, 580, 300, 590, 300], shared={1: 576, 2: PREFIX, 3: 560, 4: PREFIX}))

    def test_many_rows_share_a_prefix(self) -> None:
        self.check(self.case([257] * 35, heads=(2, 1), shared=dict.fromkeys(range(1, 35), PREFIX)))

    def test_keys_and_values_of_other_types(self, dtype: torch.dtype) -> None:
        if not self.backend.cache_dtypes:
            pytest.skip("the backend reads the model's own type only")
        for name in set(self.backend.cache_dtypes.values()):
            shared = {1: PREFIX, 2: PREFIX}
            poison = self.poison if self.cache_poison is None else self.cache_poison
            types = {"dtype": dtype, "cache_dtype": getattr(torch, name), "head_dim": 64, "poison": poison}
            for window in (None, 40):
                self.check(self.case([300, 270, 280, 5], [(33, 40), (0, 20)], shared=shared, **types), window)

    @pytest.mark.parametrize("shared", [None, {1: PREFIX, 2: PREFIX}])
    def test_a_static_batch(self, shared: dict[int, int] | None) -> None:
        mixed = ([270, 257, 280], [(0, 40), (33, 70), (20, 1)])
        for decode, chunks, size in (
            ([300, 290, 260, 5], [], StaticSize(8, 0, 0)),
            (*mixed, StaticSize(8, 160, 4)),
            ([], [(0, 40), (33, 70)], StaticSize(0, 128, 4)),
        ):
            case = self.case(decode, chunks, shared=shared if decode else None, size=size)
            if not self.open(case).can_capture:
                pytest.skip("steps with this backend are not captured")
            self.check(case)
