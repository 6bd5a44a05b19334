"""Behind its last attention a model computes the tokens that are read, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sgcore import Engine
from sgcore.layers.mlp import GatedMLP
from sgcore.runner.batch import ForwardBatch
from sgcore.runner.runner import ModelRunner
from sgcore.scheduler.step import ChunkPlan, StepPlan
from tests.runner.test_warm_up import CONFIG
from tests.runner.test_warm_up import runner as runner

GREEDY = dict(temperature=0.0, max_new_tokens=3, ignore_eos=True)
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14]]


def replies(folder: Path, chunk: int, **asked: Any) -> list[list[int]]:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with Engine(
        model_path=str(folder), load_format="dummy", skip_tokenizer_init=True, dtype="float32",
        chunked_prefill_size=chunk, max_total_tokens=256,
    ) as engine:  # fmt: skip
        return [reply["output_ids"] for reply in engine.generate(input_ids=PROMPTS, sampling_params=GREEDY, **asked)]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The tokens of each MLP's call."""
    counts: list[int] = []
    forward = GatedMLP.forward

    def counted(self: GatedMLP, norm: Any, x: Tensor, residual: Tensor | None) -> Any:
        counts.append(len(x))
        return forward(self, norm, x, residual)

    monkeypatch.setattr(GatedMLP, "forward", counted)
    yield counts


@pytest.mark.parametrize("chunk", [64, 4], ids=["whole prompts", "chunks"])
def test_only_the_last_layer_leaves_tokens_out(tmp_path: Path, computed: list[int], chunk: int) -> None:
    plain = replies(tmp_path, chunk)
    steps = list(zip(computed[::2], computed[1::2], strict=True))
    assert max(first for first, _ in steps) == min(chunk, 10)
    assert all(1 <= last <= 2 for _, last in steps)
    assert replies(tmp_path, chunk, return_logprob=True, logprob_start_len=0) == plain, "these read every token"


def test_a_chunk_that_samples_nothing_leaves_one(runner: ModelRunner, computed: list[int]) -> None:
    step = StepPlan(0, chunks=[ChunkPlan(0, 0, 6, False)])
    runner.rows.known[0] = 8
    runner.graphs.most_tokens = 0
    runner.launch(step)()
    assert computed == [6, 1]


def test_tokens_are_picked_once() -> None:
    batch = ForwardBatch.__new__(ForwardBatch)
    batch.picks = torch.tensor([3, 1])
    states = torch.arange(8.0).view(4, 2)
    first, second = batch.pick(states, states + 1)
    assert first.tolist() == [[6, 7], [2, 3]] and second.tolist() == [[7, 8], [3, 4]]
    assert batch.pick(first) == (first,)
