"""What a captured graph reads lies at the same address whatever else the step puts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

from sgcore.engine.messages import SamplingParams
from sgcore.runner.inputs import ALIGNMENT
from sgcore.runner.runner import ModelRunner
from sgcore.scheduler.step import ChunkPlan, RowStart, StepPlan
from tests.runner.test_warm_up import runner as runner

PLAIN = SamplingParams(temperature=0.0)
OTHERS = [
    SamplingParams(temperature=0.7),
    SamplingParams(temperature=0.0, frequency_penalty=0.5, logit_bias={3: 1.0, 4: 2.0}),
]


def addresses(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch, sampling: SamplingParams, masked: list[int]) -> Any:
    """Where the device would find each of the step's tensors, and the graph that it needs."""
    used, places = 0, {}

    def put(array: Any) -> Tensor:
        nonlocal used
        tensor = type(runner.inputs).put(runner.inputs, array)
        used = -(-used // ALIGNMENT) * ALIGNMENT
        places[id(tensor)] = used
        kept.append(tensor)
        used += np.asarray(array).nbytes
        return tensor

    kept: list[Tensor] = []
    monkeypatch.setattr(runner.inputs, "put", put)
    for row in range(3):
        runner.rows._join(RowStart(row, [1, 2, 3, 4], 3, 3, [row + 1], sampling, [], -1, -1))
        runner.sampler.join(RowStart(row, [1, 2, 3, 4], 3, 3, [row + 1], sampling, [], -1, -1))
    runner.rows.computed[2] = 0
    step = StepPlan(0, decode=[0, 1], chunks=[ChunkPlan(2, 0, 4, True)], masked=masked)
    work = runner._prepare(step, runner.graphs.size(step))
    read = (work.batch.positions, work.batch.slots, work.decode_rows, work.chunk_ids, work.last_places)
    return work.key, [places[id(tensor)] for tensor in read]


def test_masks_penalties_and_draws_move_nothing(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        addresses(runner, monkeypatch, sampling, masked)
        for sampling in (PLAIN, *OTHERS)
        for masked in ([0], [0, 2], [0, 1, 2])
    ]
    assert len({key for key, _ in found}) == 1, "each of these leaves sampling to the host"
    assert all(places == found[0][1] for _, places in found)
