"""How a model is built: what is allocated, what is shared, how its linear layers change, which names it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from sgcore.api import Build, LinearMethod, QuantScheme
from sgcore.kernels import Kernels
from sgcore.layers.linear import Linear
from sgcore.layers.norm import RMSNorm
from sgcore_transformers.model import TransformersModel

SMALL: dict[str, Any] = dict(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, pad_token_id=0, max_position_embeddings=128,
)  # fmt: skip


def build(config: Any, architecture: str, scheme: QuantScheme | None = None) -> TransformersModel:
    hf_config = {**config.to_dict(), "architectures": [architecture]}
    return TransformersModel(hf_config, Build(Kernels(), torch.bfloat16, torch.device("cpu"), scheme))


def test_buffers_are_those_of_transformers_and_parameters_have_the_models_type() -> None:
    config = hf.Gemma3TextConfig(**SMALL, layer_types=["full_attention"] * 2)
    made, theirs = build(config, "Gemma3ForCausalLM"), hf.Gemma3ForCausalLM(config).to(torch.bfloat16)
    ours = dict(made.named_buffers())
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours[name].float(), buffer.float(), atol=0, rtol=1e-2)
    assert {(p.dtype, p.device.type) for p in made.parameters()} == {(torch.bfloat16, "cpu")}
    assert {n: p.shape for n, p in made.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}


def test_building_changes_torch_for_nobody_else() -> None:
    build(hf.OlmoConfig(**SMALL), "OlmoForCausalLM")
    assert torch.get_default_dtype() == torch.float32
    assert not nn.Linear(2, 2).weight.is_meta


def test_a_tied_weight_is_in_memory_once() -> None:
    model = build(hf.GemmaConfig(**SMALL, tie_word_embeddings=True), "GemmaForCausalLM")
    assert model.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert model.get_parameter("lm_head.weight") is model.get_parameter("model.embed_tokens.weight")


@pytest.mark.parametrize(
    ("config", "architecture", "replaced"),
    [
        (hf.Olmo2Config(**SMALL), "Olmo2ForCausalLM", 2 * 4 + 1),
        (hf.GemmaConfig(**SMALL), "GemmaForCausalLM", 0),
        (hf.CohereConfig(**SMALL), "CohereForCausalLM", 0),
    ],
    ids=["the same norm", "one that adds 1 to its weight", "one that subtracts the mean"],
)
def test_norms_are_replaced_where_they_compute_the_same(config: Any, architecture: str, replaced: int) -> None:
    modules = build(config, architecture).modules()
    assert sum(isinstance(module, RMSNorm) for module in modules) == replaced


@pytest.mark.parametrize(
    ("config", "architecture", "is_deferred"),
    [
        (hf.OlmoConfig(**SMALL), "OlmoForCausalLM", True),
        (hf.Qwen3Config(**SMALL), "Qwen3ForCausalLM", True),
        (hf.CohereConfig(**SMALL), "CohereForCausalLM", False),
        (hf.StableLmConfig(**SMALL), "StableLmForCausalLM", False),
        (hf.HunYuanDenseV1Config(**SMALL), "HunYuanDenseV1ForCausalLM", False),
    ],
    ids=["halves", "behind a norm", "pairs", "a part of each head", "before a norm"],
)
def test_a_rotary_embedding_is_left_to_the_cache_where_it_is_the_same(
    config: Any, architecture: str, is_deferred: bool
) -> None:
    attending = [layer.self_attn for layer in build(config, architecture).model.layers]
    assert ["forward" in vars(module) for module in attending] == [is_deferred] * 2


class Zero(LinearMethod):
    """A quantization that keeps nothing of a weight but its rows."""

    def create(self, layer: nn.Module, in_features: int, out_features: Sequence[int]) -> None:
        layer.scale = nn.Parameter(torch.empty(sum(out_features)), requires_grad=False)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        return x.new_zeros(*x.shape[:-1], len(layer.scale))


class ZeroScheme(QuantScheme):
    @classmethod
    def from_config(cls, quantization_config: Mapping[str, Any]) -> QuantScheme:
        return cls()

    def linear(self, parts: Sequence[str], build: Build) -> LinearMethod | None:
        return Zero() if parts[0].startswith("model.layers.") else None


def test_linear_layers_take_a_quantization_by_their_names() -> None:
    model = build(hf.OlmoConfig(**SMALL, tie_word_embeddings=False), "OlmoForCausalLM", ZeroScheme())
    methods = {name: module.method for name, module in model.named_modules() if isinstance(module, Linear)}
    assert len(methods) == 2 * 7 + 1
    assert {name for name, method in methods.items() if not isinstance(method, Zero)} == {"lm_head"}
    assert "model.layers.0.mlp.up_proj.scale" in model.known


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"),
        ("layers.0.mlp.dense_h_to_4h.weight", "gpt_neox.layers.0.mlp.dense_h_to_4h.weight"),
        ("gpt_neox.layers.0.attention.masked_bias", None),
        ("made.up", "made.up"),
    ],
)
def test_names_of_old_checkpoints(name: str, expected: str | None) -> None:
    shape = {**SMALL, "intermediate_size": 64}
    assert build(hf.GPTNeoXConfig(**shape), "GPTNeoXForCausalLM").rename(name) == expected
