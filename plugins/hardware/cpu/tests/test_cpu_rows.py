"""A row's numbers are the same to the last bit whatever else is computed with it, at every level of the processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ctypes import CDLL
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sgcore import Engine
from sgcore.api import CacheSpec, LayerCache
from sgcore.cache.pool import KVPool
from sgcore.cache.rows import narrowed
from sgcore.kernels import FLOAT8
from sgcore.runner.batch import ForwardBatch
from sgcore.runner.inputs import StepInputs
from sgcore.testing.checkpoints import write_checkpoint
from sgcore_cpu import library
from sgcore_cpu.integers import COARSE
from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.paged import NativeAttention

LEVELS = library.usable_levels()
EMULATED = "amx, emulated"
TOKENS = 145
CUTS = (0, 1, 3, 8, 20, 51, 84, 144, TOKENS)
"""Where the tokens are cut into calls: few, and as many as tiles take."""


@pytest.fixture(params=[*LEVELS, EMULATED])
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A level that the package uses meanwhile."""
    name = str(request.param)
    if name == EMULATED:
        emulated: CDLL = request.getfixturevalue("emulated")
        name = "amx"
        monkeypatch.setattr(library, "_shared", lambda: emulated)
        monkeypatch.setattr(library, "usable_levels", lambda: ("amx",))
    monkeypatch.setenv(library.LEVEL, name)
    library.open_library.cache_clear()
    yield name
    library.open_library.cache_clear()


def assert_rows_stand_alone(compute: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    whole = compute(x)
    parts = [compute(x[begin:end].contiguous()) for begin, end in pairwise(CUTS)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows, size", [(320, 192), (32, 2080), (96, 40)])
def test_products_of_floats(level: str, dtype: torch.dtype, rows: int, size: int) -> None:
    kernels, x = CpuKernels(level), torch.randn(TOKENS, size).to(dtype)
    weight = kernels.pack((torch.randn(rows, size) / size**0.5).to(dtype))
    assert_rows_stand_alone(lambda some: kernels.linear(some, weight, torch.ones(rows).to(dtype)), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("coarseness", [0.0, COARSE])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["none", "uint8", "float32"])
def test_products_of_integers(level: str, dtype: torch.dtype, coarseness: float, bits: int, kind: str) -> None:
    kernels, (rows, size) = CpuKernels(level, coarseness), (198, 192)
    values = torch.randint(0, 1 << bits, (rows, size), dtype=torch.uint8)
    scales = (torch.rand(rows, 3) + 0.1) / 16
    zeros = {"none": None, "uint8": values[:, ::64].contiguous(), "float32": torch.rand(rows, 3) * (1 << bits) * 1.4}
    weight = (kernels.pack_int(values, bits), *kernels.pack_scales(scales, zeros[kind], bits))
    x = torch.randn(TOKENS, size)
    x[::3, 3] *= 40
    assert_rows_stand_alone(lambda some: kernels.linear_int(some, *weight, bits), x.to(dtype))
    assert_rows_stand_alone(lambda some: kernels.gated_int(some, *weight, bits), x.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block", [None, (128, 128)])
def test_products_of_floats_of_8_bits(level: str, dtype: torch.dtype, block: tuple[int, int] | None) -> None:
    kernels, x = CpuKernels(level), torch.randn(TOKENS, 256).to(dtype)
    weight, scale = torch.randn(224, 256).to(FLOAT8), torch.rand(224) if block is None else torch.rand(2, 2)
    assert_rows_stand_alone(lambda some: kernels.linear_fp8(some, weight, scale, None, block), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [576, 1537])
def test_norms_and_gates(level: str, dtype: torch.dtype, size: int) -> None:
    kernels, x, norm = CpuKernels(level), torch.randn(TOKENS, 2 * size).to(dtype), torch.rand(2 * size).to(dtype)
    assert_rows_stand_alone(kernels.silu_mul, x)
    assert_rows_stand_alone(lambda some: kernels.add_rms_norm(some, some * 2, norm, 1e-5)[0], x)


class Sequences:
    """Rows of 700 tokens and a query for each of them; the first 600 of two rows are the same pages."""

    length, pages = 700, 44

    def __init__(self, heads: tuple[int, int], head_dim: int, dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
        self.pool = KVPool(
            CacheSpec((LayerCache(heads[1], head_dim),)), 3 * self.pages + 1, 16, cache_dtype, torch.device("cpu")
        )
        for pool in self.pool.tensors():
            pool.copy_(narrowed(torch.randn(*pool.shape[:3], head_dim).to(dtype), cache_dtype))
        self.q = torch.randn(3, self.length, heads[0], head_dim).to(dtype)
        self.q[1, :600] = self.q[0, :600]
        self.table = 1 + np.random.default_rng(1).permutation(3 * self.pages).reshape(3, -1).astype(np.int32)
        self.table[1, :37] = self.table[0, :37]

    def attend(self, kernels: CpuKernels, window: int | None, *asked: tuple[int, int, int]) -> list[torch.Tensor]:
        """A step with the queries [begin, end) of each (row, begin, end), those that decode first."""
        counts = np.array([end - begin for _, begin, end in asked])
        rows = np.array([row for row, _, _ in asked])
        q = torch.cat([self.q[row, begin:end] for row, begin, end in asked])
        batch = ForwardBatch(
            positions=torch.zeros(len(q), dtype=torch.int64), slots=torch.zeros(len(q), dtype=torch.int64),
            decode_rows=int((counts == 1).cumprod().sum()), rows=rows, starts=np.cumsum(counts) - counts, counts=counts,
            lengths=np.array([end for _, _, end in asked]), page_table=self.table[rows],
            pages=torch.from_numpy(self.table), inputs=StepInputs(torch.device("cpu"), 1 << 16),
        )  # fmt: skip
        backend = NativeAttention(self.pool, kernels)
        assert backend.library is not None
        backend.plan(batch)
        return list(backend.forward(q, q, q, 0, 0.3, window, batch).split(counts.tolist()))


@pytest.mark.parametrize(
    "dtype, heads, window, is_narrow",
    [
        (torch.float32, (2, 2), None, False),
        (torch.bfloat16, (3, 1), None, True),
        (torch.float32, (4, 2), 70, True),
        (torch.bfloat16, (8, 1), 300, False),
    ],
)
def test_attention(level: str, dtype: torch.dtype, heads: tuple[int, int], window: int | None, is_narrow: bool) -> None:
    """Of one query, beside others that share its prefix, and of a chunk that begins anywhere."""
    kernels, rows = CpuKernels(level), Sequences(heads, 32, dtype, torch.int8 if is_narrow else dtype)
    places = (0, 3, 63, 64, 255, 256, 520, 599, 640, 699)
    alone = {at: rows.attend(kernels, window, (1, at, at + 1))[0] for at in places}
    for at, expected in alone.items():
        others = [(0, at, at + 1), (2, 9, 10), (2, 690, 691)]
        together = rows.attend(kernels, window, others[0], (1, at, at + 1), *others[1:], (2, 5, 77))
        assert torch.equal(together[1], expected), at
    for cuts in ((0, 700), (0, 1, 64, 300, 301, 520, 522, 700), (0, 250, 640, 700)):
        chunks = [rows.attend(kernels, window, (2, 3, 9), (1, *cut))[1] for cut in pairwise(cuts)]
        whole = torch.cat(chunks)
        for at, expected in alone.items():
            assert torch.equal(whole[at : at + 1], expected), (cuts, at)


SHAPE = dict(
    vocab_size=224, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=512, eos_token_id=1, bos_token_id=0, pad_token_id=0,
)  # fmt: skip
OPTIONS = {"platform": "cpu", "skip_tokenizer_init": True, "max_running_requests": 48, "max_total_tokens": 8192}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sgcore_llama")
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(transformers.LlamaConfig(**SHAPE), folder, std=0.1)
    return folder


@pytest.mark.parametrize(
    "quantization, dtype",
    [(None, "float32"), (None, "bfloat16"), ("int4", "bfloat16"), ("int8", "float32"), ("fp8", "bfloat16")],
)
def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(
    level: str, checkpoint: Path, quantization: str | None, dtype: str
) -> None:
    draw = torch.Generator().manual_seed(3)
    prompts = [torch.randint(2, 224, (3 + 2 * i,), generator=draw).tolist() for i in range(40)]
    wanted = [{"temperature": 1.5, "max_new_tokens": 4, "ignore_eos": True, "sampling_seed": i} for i in range(40)]
    options: dict[str, Any] = {**OPTIONS, "dtype": dtype, "quantization": quantization}
    with Engine(model_path=str(checkpoint), **options) as engine:
        together = engine.generate(input_ids=prompts, sampling_params=wanted, return_logprob=True)
        for i in (0, 21, 39):
            engine.flush_cache()
            alone = engine.generate(input_ids=prompts[i], sampling_params=wanted[i], return_logprob=True)
            meta, other = alone["meta_info"], together[i]["meta_info"]
            assert meta["output_token_logprobs"] == other["output_token_logprobs"]
            assert alone["output_ids"] == together[i]["output_ids"]
