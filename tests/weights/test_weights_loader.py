"""Checkpoint tensors find their parameters, and what doesn't fit is named."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sgcore.api import Build, HfConfig, Model
from sgcore.errors import LaunchError
from sgcore.kernels import Kernels
from sgcore.layers.linear import Embedding, Linear
from sgcore.layers.norm import RMSNorm
from sgcore.testing.checkpoints import GivenTensors
from sgcore.weights.loader import load_weights

CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self, build: Build) -> None:
        super().__init__()
        self.qkv_proj = Linear(build, 4, (6, 2, 3), bias=True)
        self.input_norm = RMSNorm(build, 4, 1e-6)


class Tiny(nn.Module, Model):
    packed = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}

    def __init__(self, hf_config: HfConfig, build: Build) -> None:
        super().__init__()
        self.embed = Embedding(build, 7, 4)
        self.layers = nn.ModuleList([Block(build)])
        self.lm_head = Linear(build, 4, 7)
        self.register_buffer("counts", torch.zeros(3))

    def rename(self, name: str) -> str | None:
        return None if name.startswith("vision.") else name.removeprefix("model.")

    def cache_spec(self) -> Any: ...
    def forward(self, batch: Any) -> Any: ...
    def logits(self, hidden: Any) -> Any: ...


class Tied(Tiny):
    tied: ClassVar = {"lm_head.weight": "embed.weight"}

    def __init__(self, hf_config: HfConfig, build: Build) -> None:
        super().__init__(hf_config, build)
        self.lm_head.weight = self.embed.weight


@pytest.fixture
def build() -> Build:
    return Build(Kernels(), torch.float32, CPU)


@pytest.fixture
def checkpoint() -> dict[str, Tensor]:
    shapes = {
        "model.embed.weight": (7, 4),
        "model.layers.0.input_norm.weight": (4,),
        **{f"model.layers.0.{part}_proj.weight": (rows, 4) for part, rows in (("q", 6), ("k", 2), ("v", 3))},
        **{f"model.layers.0.{part}_proj.bias": (rows,) for part, rows in (("q", 6), ("k", 2), ("v", 3))},
        "lm_head.weight": (7, 4),
    }
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def load(model: Tiny, tensors: dict[str, Tensor], **options: Any) -> None:
    load_weights(model, GivenTensors(tensors), CPU, torch.float32, **options)


def test_fused_parts_in_order_whatever_the_file_order(build: Build, checkpoint: dict[str, Tensor]) -> None:
    model = Tiny({}, build)
    load(model, dict(reversed(checkpoint.items())))
    fused = model.layers[0].qkv_proj
    for kind in ("weight", "bias"):
        parts = [checkpoint[f"model.layers.0.{part}_proj.{kind}"] for part in "qkv"]
        assert torch.equal(getattr(fused, kind), torch.cat(parts))
    assert torch.equal(model.embed.weight, checkpoint["model.embed.weight"])


def test_a_tensor_that_is_fused_already(build: Build, checkpoint: dict[str, Tensor]) -> None:
    model = Tiny({}, build)
    for kind in ("weight", "bias"):
        parts = [checkpoint.pop(f"model.layers.0.{part}_proj.{kind}") for part in "qkv"]
        checkpoint[f"model.layers.0.qkv_proj.{kind}"] = torch.cat(parts)
    load(model, checkpoint)
    assert torch.equal(model.layers[0].qkv_proj.weight, checkpoint["model.layers.0.qkv_proj.weight"])


def test_values_take_the_parameters_type(checkpoint: dict[str, Tensor]) -> None:
    model = Tiny({}, Build(Kernels(), torch.bfloat16, CPU))
    load(model, checkpoint)
    assert torch.equal(model.embed.weight, checkpoint["model.embed.weight"].bfloat16())


def test_unwanted_tensors_and_old_frequencies_are_left_out(build: Build, checkpoint: dict[str, Tensor]) -> None:
    extra = {"vision.weight": torch.zeros(1), "model.layers.0.rotary_emb.inv_freq": torch.zeros(2)}
    load(Tiny({}, build), checkpoint | extra)


def test_a_buffer_may_be_in_the_checkpoint(build: Build, checkpoint: dict[str, Tensor]) -> None:
    model = Tiny({}, build)
    load(model, checkpoint | {"counts": torch.ones(3)})
    assert torch.equal(model.counts, torch.ones(3))


def test_tied_parameters_need_one_tensor(build: Build, checkpoint: dict[str, Tensor]) -> None:
    del checkpoint["lm_head.weight"]
    model = Tied({}, build)
    load(model, checkpoint)
    assert torch.equal(model.lm_head.weight, checkpoint["model.embed.weight"])


def test_progress(build: Build, checkpoint: dict[str, Tensor]) -> None:
    seen: list[tuple[int, int | None]] = []
    load(Tiny({}, build), checkpoint, report=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 9) for done in range(1, 10)]


@pytest.mark.parametrize(
    "extra", ["model.layers.0.gate.weight", "model.layers.1.q_proj.weight", "q_proj.weight", "odd"]
)
def test_unknown_tensor_is_named(build: Build, checkpoint: dict[str, Tensor], extra: str) -> None:
    with pytest.raises(LaunchError, match=rf"tensor {extra} has no place in Tiny"):
        load(Tiny({}, build), checkpoint | {extra: torch.zeros(2, 2)})


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("model.layers.0.k_proj.weight", r"layers\.0\.k_proj\.weight$"),
        ("model.layers.0.v_proj.bias", r"layers\.0\.v_proj\.bias$"),
        ("model.embed.weight", r"embed\.weight$"),
        ("lm_head.weight", r"lm_head\.weight$"),
    ],
)
def test_missing_tensor_is_named(build: Build, checkpoint: dict[str, Tensor], gone: str, named: str) -> None:
    del checkpoint[gone]
    with pytest.raises(LaunchError, match=named):
        load(Tiny({}, build), checkpoint)


def test_many_missing_tensors_are_counted(build: Build) -> None:
    with pytest.raises(LaunchError, match=r"and 4 more$"):
        load(Tiny({}, build), {})


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [("model.embed.weight", (8, 4), "(7, 4)"), ("model.layers.0.k_proj.weight", (6, 4), "(2, 4)")],
)
def test_wrong_shape_says_both(
    build: Build, checkpoint: dict[str, Tensor], name: str, shape: tuple[int, ...], wanted: str
) -> None:
    with pytest.raises(LaunchError) as caught:
        load(Tiny({}, build), checkpoint | {name: torch.zeros(shape)})
    message = str(caught.value)
    assert name in message and str(shape) in message and wanted in message
