"""A parameter says where the checkpoint's tensors lie in it, and the loader asks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sgcore.api import Build, HfConfig, LinearMethod, Model, QuantScheme
from sgcore.errors import LaunchError
from sgcore.kernels import Kernels
from sgcore.layers.linear import Linear
from sgcore.layers.parameters import Axis, LayerParameters
from sgcore.layers.skips import is_named, is_skipped
from sgcore.testing.checkpoints import GivenTensors
from sgcore.weights.loader import load_weights
from sgcore.weights.random import fill_random

CPU = torch.device("cpu")
ORDER = torch.arange(8, dtype=torch.int32) // 4


class Odd(LinearMethod):
    """Two outputs in a number, by columns; a scale for each part; groups that may be left out."""

    def create(self, layer: nn.Module, in_features: int, out_features: Any) -> None:
        parameters = LayerParameters(layer, in_features, out_features, CPU)
        parameters.add("words", torch.int32, Axis(1, 2), Axis(0))
        parameters.add("blocks", torch.float32, Axis(0, 4, rounds_up=True), Axis(1, 8))
        parameters.add("rate", torch.float32)
        parameters.add("rows", torch.float32, Axis(0), spreads=True)
        parameters.add("order", torch.int32, None, Axis(0), ORDER, is_optional=True)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError


class Scheme(QuantScheme):
    @classmethod
    def from_config(cls, quantization_config: Any) -> Scheme:
        return cls()

    def linear(self, parts: Any, build: Build) -> LinearMethod:
        self.parts = parts
        return Odd()

    def is_unused(self, name: str, tensor: Tensor) -> bool:
        return name.endswith(".bias") and not bool(tensor.any())


class Tiny(nn.Module, Model):
    packed = {"ab": ("a", "b")}

    def __init__(self, hf_config: HfConfig, build: Build) -> None:
        super().__init__()
        self.ab = Linear(build, 8, (2, 6), name="ab")

    def cache_spec(self) -> Any: ...
    def forward(self, batch: Any) -> Any: ...
    def logits(self, hidden: Any) -> Any: ...


SHAPES = {"words": ((8, 1), (8, 3)), "blocks": ((1, 1), (2, 1)), "rate": ((), (1,)), "rows": ((), (6, 1))}


@pytest.fixture
def model() -> Tiny:
    return Tiny({}, Build(Kernels(), torch.float32, CPU, Scheme(), packed=Tiny.packed))


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    made = {f"{part}.{name}": torch.rand(shape) for name, both in SHAPES.items() for part, shape in zip("ab", both)}  # noqa: B905
    return {name: (t * 99).int() if name.endswith("words") else t for name, t in made.items()}


def load(model: Tiny, tensors: dict[str, Tensor]) -> None:
    load_weights(model, GivenTensors(tensors), CPU, torch.float32, scheme=Scheme())


def test_parts_lie_where_the_parameter_says(model: Tiny, tensors: dict[str, Tensor]) -> None:
    load(model, tensors)
    layer: Any = model.ab
    assert torch.equal(layer.words, torch.cat((tensors["a.words"], tensors["b.words"]), dim=1))
    assert torch.equal(layer.blocks, torch.cat((tensors["a.blocks"], tensors["b.blocks"])))
    assert layer.rate.tolist() == [float(tensors["a.rate"]), float(tensors["b.rate"])]
    assert torch.equal(layer.rows, torch.cat((tensors["a.rows"].expand(2), tensors["b.rows"].flatten())))
    assert torch.equal(layer.order, ORDER.expand(2, 8))


def test_tensors_that_are_fused_already(model: Tiny, tensors: dict[str, Tensor]) -> None:
    whole = {"ab.words": torch.ones(8, 4, dtype=torch.int32), "ab.blocks": torch.rand(3, 1), "ab.rows": torch.rand(8)}
    load(model, whole | {"ab.rate": torch.tensor(5.0), "ab.order": ORDER.flip(0)})
    layer: Any = model.ab
    assert layer.rate.tolist() == [5.0, 5.0] and torch.equal(layer.order, ORDER.flip(0).expand(2, 8))


def test_each_part_may_have_its_own_order(model: Tiny, tensors: dict[str, Tensor]) -> None:
    load(model, tensors | {"b.order": ORDER.flip(0)})
    assert torch.equal(model.ab.order, torch.stack((ORDER, ORDER.flip(0))))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.words", "b.blocks", "a.rate", "b.rows"])
def test_a_missing_part_is_named(model: Tiny, tensors: dict[str, Tensor], name: str) -> None:
    del tensors[name]
    with pytest.raises(LaunchError, match=name):
        load(model, tensors)


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("b.words", torch.zeros(8, 3), "is float32.*takes int32"),
        ("b.rows", torch.zeros(6).to(torch.float8_e4m3fn), "is float8_e4m3fn.*takes float32"),
        ("b.words", torch.zeros(3, 8, dtype=torch.int32), "has shape"),
        ("b.blocks", torch.zeros(1), "has shape"),
        ("a.bias", torch.ones(2), "has no place"),
    ],
)
def test_what_does_not_fit(model: Tiny, tensors: dict[str, Tensor], name: str, tensor: Tensor, problem: str) -> None:
    with pytest.raises(LaunchError, match=problem):
        load(model, tensors | {name: tensor})


def test_the_scheme_may_leave_tensors_out(model: Tiny, tensors: dict[str, Tensor]) -> None:
    load(model, tensors | {"a.bias": torch.zeros(2)})


def test_random_values_leave_structure_alone(model: Tiny) -> None:
    fill_random(model, CPU, torch.float32)
    assert torch.equal(model.ab.order, ORDER.expand(2, 8))  # type: ignore[arg-type]
    assert model.ab.rows.abs().sum() > 0  # type: ignore[operator]


def test_sizes_have_to_come_out_even() -> None:
    build = Build(Kernels(), torch.float32, CPU, Scheme())
    with pytest.raises(LaunchError, match="words, output features: 3 can't be divided by 2"):
        Linear(build, 8, 3)
    with pytest.raises(LaunchError, match="blocks, input features: 12 can't be divided by 8"):
        Linear(build, 12, 4)


def test_the_scheme_is_asked_with_the_checkpoints_names() -> None:
    scheme = Scheme()
    build = Build(Kernels(), torch.float32, CPU, scheme, packed={"ab": ("a", "b")})
    Linear(build, 8, (2, 2), name="layers.0.ab")
    assert scheme.parts == ("layers.0.a", "layers.0.b")
    Linear(build, 8, 2, name="layers.0.c")
    assert scheme.parts == ("layers.0.c",)


@pytest.mark.parametrize(
    ("name", "is_listed"),
    [("lm_head", True), ("mlp", True), ("model.layers.1", True), ("layers.1.mlp", True), ("layers.10", False),
     ("ml", False), ("", False)],
)  # fmt: skip
def test_names_of_lists(name: str, is_listed: bool) -> None:
    layer = "lm_head" if name == "lm_head" else "model.layers.1.mlp.down_proj"
    assert is_named(layer, [name]) == is_listed
    assert is_skipped([layer], [name]) == is_listed
