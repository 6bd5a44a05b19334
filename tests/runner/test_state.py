"""The device's page table follows the host's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgcore.engine.messages import SamplingParams
from sgcore.runner.inputs import StepInputs
from sgcore.runner.rows import Rows
from sgcore.runner.state import DeviceState
from sgcore.scheduler.step import RowStart, StepPlan

HOST = torch.device("cpu")


def test_a_place_that_changes_twice_has_the_hosts_value(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(4, 256, 16)
    state = DeviceState(rows, HOST)
    monkeypatch.setattr(state, "_is_host", False)
    state.pages = torch.zeros_like(state.pages)
    start = RowStart(1, [1] * 40, 40, 0, [7, 8, 9], SamplingParams(), [], -1, -1)
    step = StepPlan(0, joined=[start], pages=[(1, 0, [5, 8]), (2, 3, [11])])
    rows.apply(step)
    changes = state.put(step, StepInputs(HOST, 0))
    assert changes is not None
    state.apply(changes)
    assert np.array_equal(state.pages.numpy(), rows.page_table)
    assert rows.page_table[1, :3].tolist() == [5, 8, 9]
