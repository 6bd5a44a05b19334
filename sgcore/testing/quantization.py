"""What every quantization plugin has to pass: its layers multiply by what the checkpoint's tensors mean.

The plugin's test writes tensors from the format's definition (`pack`), and says which weight they stand for. The suite
never asks the scheme for that.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sgcore import Engine
from sgcore.api import Build, HfConfig, Model, QuantScheme
from sgcore.config import Choices
from sgcore.errors import LaunchError
from sgcore.kernels import Kernels
from sgcore.layers.linear import DenseLinear, Linear
from sgcore.plugins.resolve import resolve
from sgcore.testing.checkpoints import FIRST_TOKEN, GivenTensors, log_probabilities, write_checkpoint
from sgcore.weights.kept import KeptLayers
from sgcore.weights.loader import load_weights
from sgcore.weights.random import fill_random

FUSED = "layer"
PARTS = ("a_proj", "b_proj", "c_proj")
ROWS = (1, 2, 3, 17, 70)


def unchanged(x: Tensor) -> Tensor:
    """An input that isn't rounded."""
    return x


@dataclass(frozen=True)
class Packed:
    """One checkpoint layer in a format, and what it means."""

    tensors: dict[str, Tensor]
    """By their names behind the layer's own."""
    weight: Tensor
    """(out, in) float32: the weight that the tensors stand for."""
    rounded: Callable[[Tensor], Tensor] = unchanged
    """What becomes of an input (tokens, in) before the product, where the format rounds it."""


class QuantSuite:
    """Inherit it, call the class `Test...`, set `scheme`, `config` and `error`, and write `pack`."""

    scheme: ClassVar[type[QuantScheme]]
    config: ClassVar[Mapping[str, Any]] = {}
    """`quantization_config`; empty for a scheme that quantises at start, together with `options`."""
    options: ClassVar[dict[str, Any]] = {}
    """Options of `Engine`, such as `quantization`, where the configuration names no method."""
    error: ClassVar[float]
    """Bound of |packed - float| / |float|, the norms of a weight of normal values."""
    shapes: ClassVar[Sequence[tuple[int, tuple[int, ...]]]] = ((64, (40,)), (96, (24, 8, 16)))
    """Input features, and output features of each fused part."""
    misfits: ClassVar[Sequence[tuple[int, int]]] = ()
    """Input and output features that the format can't have."""
    refused: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Changes of `config` that the scheme has to refuse."""
    quantises_at_start: ClassVar[bool] = False
    """Whether the scheme takes weights that aren't quantised, which an empty configuration says."""
    skip_key: ClassVar[str | None] = None
    """The configuration's list of layers that aren't quantised."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Tensors that a checkpoint may leave out."""
    kernels: ClassVar[Kernels] = Kernels()
    tolerance: ClassVar[float] = 2e-3
    """Of a log-probability of the whole model, on a platform that rounds no inputs."""

    def pack(self, weight: Tensor) -> Packed:
        """Quantise (out, in) float32 and write it as the format says."""
        raise NotImplementedError

    def skipping(self, names: list[str]) -> Mapping[str, Any]:
        """The configuration with some layers, or modules around them, left out."""
        if self.skip_key is None:
            pytest.skip("the format has no list of layers")
        return {**self.config, self.skip_key: names}

    def built(self, in_features: int, parts: Sequence[int], bias: bool = False) -> Block:
        scheme = self.scheme.from_config(self.config)
        build = Build(self.kernels, torch.float32, torch.device("cpu"), scheme, packed={FUSED: PARTS[: len(parts)]})
        return Block({"in": in_features, "parts": parts, "bias": bias}, build)

    def loaded(self, layers: Sequence[Packed], biases: Sequence[Tensor] = ()) -> Linear:
        """A layer that is fused of some, filled by the loader."""
        sizes = [len(layer.weight) for layer in layers]
        block = self.built(layers[0].weight.shape[1], sizes, bool(biases))
        names = PARTS
        tensors = {f"{n}.{k}": t for n, layer in zip(names, layers, strict=False) for k, t in layer.tensors.items()}
        tensors |= {f"{name}.bias": bias for name, bias in zip(names, biases, strict=False)}
        source = GivenTensors(tensors)
        load_weights(block, source, torch.device("cpu"), torch.float32, scheme=self.scheme.from_config(self.config))
        return block.layer

    def layers(self, in_features: int, parts: Sequence[int]) -> list[Packed]:
        torch.manual_seed(7)
        return [self.pack(torch.randn(size, in_features)) for size in parts]

    def test_the_error_is_bounded(self) -> None:
        torch.manual_seed(3)
        weight = torch.randn(128, 256)
        packed = self.pack(weight)
        assert packed.weight.shape == weight.shape
        assert 0 < float((packed.weight - weight).norm() / weight.norm()) < self.error

    def test_products(self) -> None:
        for size, parts in self.shapes:
            layers = self.layers(size, parts)
            biases = [torch.randn(rows) for rows in parts]
            plain, biased = self.loaded(layers), self.loaded(layers, biases)
            for rows in ROWS:
                x = torch.randn(rows, size)
                expected = torch.cat([one.rounded(x) @ one.weight.T for one in layers], dim=1)
                assert_close(plain(x), expected)
                assert_close(biased(x), expected + torch.cat(biases))

    def test_fused_parts_equal_separate_layers(self) -> None:
        for size, parts in self.shapes:
            layers = self.layers(size, parts)
            x = torch.randn(5, size)
            separate = torch.cat([self.loaded([layer])(x) for layer in layers], dim=1)
            assert_close(self.loaded(layers)(x), separate)

    def test_layers_from_the_cache_are_as_before(self, tmp_path: Path) -> None:
        if not self.quantises_at_start:
            pytest.skip("nothing is quantised at start")
        size, parts = self.shapes[0]
        scheme, tensors = self.scheme.from_config({}), {f"{PARTS[0]}.weight": torch.randn(parts[0], size)}
        x = torch.randn(3, size)
        outputs = []
        for _ in range(2):
            cpu, kept = torch.device("cpu"), KeptLayers(tmp_path / "kept")
            build = Build(self.kernels, torch.float32, cpu, scheme, packed={FUSED: PARTS[:1]})
            block = Block({"in": size, "parts": parts[:1], "bias": False}, build)
            load_weights(block, GivenTensors(tensors), cpu, torch.float32, scheme=scheme, kept=kept)
            outputs.append(block.layer(x))
        assert kept.exists == block.layer.method.is_cacheable
        assert torch.equal(*outputs)

    def test_a_missing_tensor_is_named(self) -> None:
        size, parts = self.shapes[0]
        layers = self.layers(size, parts)
        for name in layers[0].tensors:
            rest = {key: tensor for key, tensor in layers[0].tensors.items() if key != name}
            less = [Packed(rest, layers[0].weight), *layers[1:]]
            if name in self.optional:
                self.loaded(less)
            else:
                with pytest.raises(LaunchError, match=rf"_proj\.{name}"):
                    self.loaded(less)

    def test_random_weights_multiply(self) -> None:
        size, parts = self.shapes[-1]
        block = self.built(size, parts)
        fill_random(block, torch.device("cpu"), torch.float32)
        block.layer.finish()
        assert block.layer(torch.randn(3, size)).isfinite().all()

    def test_sizes_that_do_not_fit_are_refused(self) -> None:
        for in_features, out_features in self.misfits:
            with pytest.raises(LaunchError):
                self.built(in_features, (out_features,))

    def test_unknown_configurations_are_refused(self) -> None:
        changes = [{**self.config, **change} for change in self.refused]
        for config in changes if self.quantises_at_start else [*changes, {}]:
            with pytest.raises(LaunchError):
                self.scheme.from_config(config)

    def test_skipped_layers_stay_as_they_are(self) -> None:
        scheme = self.scheme.from_config(self.skipping(["model.layers.0.b_proj", "mlp"]))
        build = Build(self.kernels, torch.float32, torch.device("cpu"), scheme)
        for name, is_left in (("0.b_proj", True), ("1.b_proj", False), ("0.mlp.down_proj", True), ("0.mlps", False)):
            method = Linear(build, 256, 256, name=f"model.layers.{name}").method
            assert isinstance(method, DenseLinear) == is_left, name
        with pytest.raises(LaunchError, match="b_proj"):
            scheme.linear([f"model.layers.0.{part}" for part in PARTS], build)

    def test_a_whole_model(self, tmp_path: Path) -> None:
        """Its log-probabilities are those of transformers' model with the weights that the tensors stand for."""
        model = self._quantised_checkpoint(tmp_path)
        draw = random.Random(5)
        prompts = [[draw.randrange(FIRST_TOKEN, 199) for _ in range(count)] for count in (2, 17, 40)]
        options = {"skip_tokenizer_init": True, "dtype": "float32", "max_total_tokens": 1024, **self.options}
        tolerance = max(self.tolerance, rounding_tolerance(tmp_path, options))
        with Engine(model_path=str(tmp_path), **options) as engine:
            for prompt in prompts:
                wanted = log_probabilities(model, prompt)[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
                params = {"max_new_tokens": 1, "temperature": 0.0}
                reply = engine.generate(
                    input_ids=prompt, sampling_params=params, return_logprob=True, logprob_start_len=0
                )
                got = torch.tensor([entry[0] for entry in reply["meta_info"]["input_token_logprobs"][1:]])
                torch.testing.assert_close(got, wanted, atol=tolerance, rtol=0)

    def _quantised_checkpoint(self, folder: Path) -> Any:
        """Write a tiny model whose layers are quantised; returns what transformers would have to compute."""
        from transformers import LlamaConfig

        shape: dict[str, Any] = {"vocab_size": 199, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
        heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "eos_token_id": 1}
        model = write_checkpoint(LlamaConfig(**shape, **heads), folder, std=0.15)
        tensors = load_file(folder / "model.safetensors")
        for name, layer in model.model.layers.named_modules():
            if isinstance(layer, nn.Linear):
                packed = self.pack(layer.weight.detach().clone())
                layer.weight.data = packed.weight.clone()
                layer.register_forward_pre_hook(_rounding(packed))
                del tensors[f"model.layers.{name}.weight"]
                tensors |= {f"model.layers.{name}.{key}": tensor for key, tensor in packed.tensors.items()}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
        file = folder / "config.json"
        config = json.loads(file.read_text())
        if self.config:
            config["quantization_config"] = dict(self.config)
        file.write_text(json.dumps(config))
        return model


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal but for the order of float32 sums."""
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


def rounding_tolerance(model_path: Path, options: Mapping[str, Any]) -> float:
    """What a platform's rounding of inputs may change of a log-probability of a tiny model (seen: 11 errors)."""
    plan = resolve(Choices.of(model_path=str(model_path), **options))
    kernels = plan.platform.load()().kernels()
    is_given = plan.hf_config.get("quantization_config")
    return 16 * float((kernels if is_given else kernels.for_rounded_weights()).integer_error)


def _rounding(packed: Packed) -> Callable[[Any, tuple[Tensor]], tuple[Tensor]]:
    return lambda _, inputs: (packed.rounded(inputs[0].flatten(0, -2)).view_as(inputs[0]),)


class Block(nn.Module, Model):
    """A model of one layer, of one part or of up to three that are fused."""

    def __init__(self, hf_config: HfConfig, build: Build) -> None:
        super().__init__()
        self.packed = build.packed  # type: ignore[misc]
        self.layer = Linear(build, hf_config["in"], hf_config["parts"], hf_config["bias"], FUSED)

    def cache_spec(self) -> Any: ...
    def forward(self, batch: Any) -> Any: ...
    def logits(self, hidden: Any) -> Any: ...
