"""cos and sin of a step's positions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from sgcore.api import Build
from sgcore.kernels import Kernels
from sgcore.layers.rotary import RotaryTable

BUILD = Build(Kernels(), torch.float32, torch.device("cpu"))


def table(theta: float) -> RotaryTable:
    return RotaryTable({"rope_theta": theta, "max_position_embeddings": 32}, 8, BUILD)


def test_each_table_of_a_model_gives_its_own_values() -> None:
    batch: Any = SimpleNamespace(positions=torch.tensor([3, 7]), rope={})
    near, far = table(1e4), table(1e6)
    for own in (near, far, near):
        cos, sin = own.gather(batch)
        assert torch.equal(cos[:, 0], own.cos[batch.positions])
        assert torch.equal(sin[:, 0], own.sin[batch.positions])
    assert not torch.equal(near.gather(batch)[0], far.gather(batch)[0])
    assert near.gather(batch)[0] is near.gather(batch)[0], "gathered once a step"
