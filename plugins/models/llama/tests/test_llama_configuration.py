"""Which configurations a Llama refuses by the key's name, before a weight is read."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from sgcore import Engine
from sgcore.config import Choices
from sgcore.errors import LaunchError
from sgcore.plugins.plan import Plan
from sgcore.plugins.resolve import resolve
from sgcore.testing.checkpoints import greedy_tokens, write_checkpoint

SHAPE: dict[str, Any] = dict(
    vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-6, max_position_embeddings=512,
)  # fmt: skip
LONGROPE = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.5] * 4, long_factor=[9.0] * 4, factor=8.0,
                original_max_position_embeddings=64)  # fmt: skip


def plan(folder: Path, change: dict[str, Any]) -> Plan:
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **SHAPE, **change}))
    return resolve(Choices.of(model_path=str(folder), load_format="dummy", skip_tokenizer_init=True))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"partial_rotary_factor": 0.5},
        {"is_causal": False},
        {"num_hidden_layers": 100_000},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": "2"},
        {"num_hidden_layers": None},
        {"num_hidden_layers": True},
        {"hidden_size": 48.0},
        {"hidden_size": 1 << 40},
        {"hidden_size": [48]},
        {"head_dim": 7},
        {"head_dim": 0},
        {"num_key_value_heads": 4},
        {"vocab_size": "199"},
        {"vocab_size": 0},
        {"intermediate_size": {}},
        {"max_position_embeddings": 10**12},
        {"max_position_embeddings": "many"},
        {"rms_norm_eps": "1e-6"},
        {"rms_norm_eps": -1.0},
        {"rope_theta": "10000"},
        {"rope_theta": [1]},
        {"tie_word_embeddings": "no"},
        {"attention_bias": 1},
        {"rope_scaling": 7},
        {"rope_scaling": {"type": "made_up"}},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"type": "linear", "factor": "two"}},
        {"rope_scaling": {"type": "linear", "factor": 0}},
        {"rope_scaling": {"type": "llama3", "factor": 8.0}},
        {"rope_scaling": {"type": "yarn", "factor": None}},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        {"rope_parameters": LONGROPE},
        {"rope_parameters": {**LONGROPE, "short_factor": [1.0, 2.0, 3.0]}, "max_position_embeddings": 64},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_served_is_refused_by_its_name(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(LaunchError, match=next(iter(change))) as caught:
        plan(tmp_path, change)
    assert caught.value.hint
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "key", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
)
def test_a_size_that_is_missing_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], **{k: v for k, v in SHAPE.items() if k != key}})
    )
    with pytest.raises(LaunchError, match=key):
        resolve(Choices.of(model_path=str(tmp_path), load_format="dummy", skip_tokenizer_init=True))


def test_keys_that_nobody_reads_are_named_and_those_that_say_nothing_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harmless = {"use_cache": False, "attention_dropout": 0.1, "_name_or_path": "x", "made_up_too": None, "off": False}
    with caplog.at_level(logging.WARNING):
        plan(tmp_path, {**harmless, "hidden_act": "swish", "made_up": 3, "another": [1]})
    said = [record.getMessage() for record in caplog.records]
    assert said == ["LlamaForCausalLM does not read these keys of the configuration: another, made_up"]


def test_longrope_is_served_up_to_its_original_length(tmp_path: Path) -> None:
    model = write_checkpoint(LlamaConfig(**SHAPE, rope_parameters=LONGROPE), tmp_path)
    prompt = list(range(3, 43))
    options: dict[str, Any] = {"skip_tokenizer_init": True, "max_total_tokens": 256, "dtype": "float32"}
    with Engine(model_path=str(tmp_path), context_length=64, **options) as engine:
        sampling = {"temperature": 0, "max_new_tokens": 20, "ignore_eos": True}
        reply = engine.generate(input_ids=prompt, sampling_params=sampling)
    assert reply["output_ids"] == greedy_tokens(model, prompt, 20)
