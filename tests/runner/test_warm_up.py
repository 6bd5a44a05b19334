"""Graphs of the usual sizes are made on padding's row: each once, and no request's page is touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgcore.api import StartReport
from sgcore.config import Choices
from sgcore.plugins.resolve import resolve
from sgcore.runner.batch import StaticSize
from sgcore.runner.graphs import StepGraphs
from sgcore.runner.runner import ModelRunner
from sgcore.scheduler.step import ChunkPlan, StepPlan
from sgcore_cpu.platform import CpuPlatform

CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, vocab_size=97, max_position_embeddings=256, rms_norm_eps=1e-5,
)  # fmt: skip


class Capturing(CpuPlatform):
    """Captures by running once more; nothing here replays with new data."""

    can_capture = True
    graph_rows = None

    captured = 0

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        work()
        return lambda: None


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[ModelRunner]:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    choices = Choices.of(
        model_path=str(tmp_path), load_format="dummy", platform="cpu", attention_backend="null", dtype="float32",
        skip_tokenizer_init=True, max_running_requests=40, max_total_tokens=512, mixed_chunk_size=64, graph_tokens=200,
    )  # fmt: skip
    plan = resolve(choices)
    made = ModelRunner(replace(plan, options={**plan.options, "random_seed": 1}), Capturing())
    made.load(StartReport())
    yield made


def test_every_usual_size_is_captured_once(runner: ModelRunner) -> None:
    graphs, platform = runner.graphs, runner.platform
    awaited = list(graphs._awaited)
    while runner.warm_up():
        pass
    assert isinstance(platform, Capturing) and platform.captured == len(awaited) == len(set(awaited)) > 10
    assert not runner.warm_up()
    assert not runner.rows.known.any() and not runner.rows.computed.any() and not runner.rows.page_table.any()
    assert all(not torch.count_nonzero(pool[1:]) for pool in runner.pool.tensors())


def test_most_rows_come_first_and_draws_last(runner: ModelRunner) -> None:
    order = [runner.graphs.next_awaited() for _ in range(len(runner.graphs._awaited))]
    decode = [size.decode_rows for size, draws in order if not size.chunk_tokens and not draws]
    assert decode == sorted(decode, reverse=True) and decode[0] == 40
    assert [draws for _, draws in order] == sorted(draws for _, draws in order)
    assert any(size.chunk_tokens and size.tokens == 64 for size, _ in order)


def test_a_platform_that_captures_few_rows_waits_for_them() -> None:
    graphs: StepGraphs[None] = StepGraphs(Capturing(), 8, 8, None)
    assert graphs.next_awaited() is None
    assert graphs.size(StepPlan(0, decode=list(range(5)))) == StaticSize(8, 0, 0)
    assert graphs.size(StepPlan(0, decode=list(range(9)))) is None
    assert graphs.size(StepPlan(0, chunks=[ChunkPlan(0, 0, 3, True)])) is None


def test_nothing_is_captured_before_weights_have_settled(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [True, True, False]
    monkeypatch.setattr(runner.platform, "settle", lambda: left.pop(0))
    monkeypatch.setattr(runner, "_is_settled", False)
    step = StepPlan(0, decode=[0])
    assert runner._size(step) is None
    for _ in range(2):
        runner._settle()
        assert runner._size(step) is None
    runner._settle()
    assert runner._size(step) is not None and not left
