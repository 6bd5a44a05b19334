"""GGUF by the suite of all sources, with files as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from sgcore import Engine
from sgcore.testing.weights import Checkpoint, WeightSourceSuite
from sgcore_gguf.source import GGUFSource

SIZES: dict[str, Any] = dict(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=32, vocab_size=300, max_position_embeddings=256,
)  # fmt: skip
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)  # fmt: skip


def words(tokenizer: Any) -> dict[str, Any]:
    """The tokenizer's metadata."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in tokenizer.all_special_tokens else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.chat_template": tokenizer.chat_template,
    }


class GGUFSuite(WeightSourceSuite):
    name, source = "gguf", GGUFSource
    arch = "llama"
    more: dict[str, np.ndarray] = {}

    @pytest.fixture(autouse=True)
    def writer(self, write_gguf: Callable[..., Path], numbers: Any, gguf_tensors: Any) -> None:
        self.write_gguf, self.numbers, self.gguf_tensors = write_gguf, numbers, gguf_tensors

    def write(self, checkpoint: Checkpoint, folder: Path) -> Path:
        metadata = self.numbers(self.arch, checkpoint.model.config)
        metadata |= {} if checkpoint.tokenizer is None else words(checkpoint.tokenizer)
        tensors = self.gguf_tensors(self.arch, checkpoint.model.config, checkpoint.tensors)
        return self.write_gguf(self.arch, metadata, tensors | self.more, folder)


class TestLlama(GGUFSuite):
    config = transformers.LlamaConfig(**SIZES)


class TestTiedLlamaWithBiases(GGUFSuite):
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True)


class TestLlama3(GGUFSuite):
    """Its rotary scaling is a tensor of factors."""

    config = transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3)
    scaled = transformers.LlamaForCausalLM(config).model.rotary_emb.inv_freq.numpy()
    more = {"rope_freqs.weight": (1 / 500000.0 ** (np.arange(0, 32, 2) / 32) / scaled).astype(np.float32)}

    def test_the_factors_become_the_scaling(self, path: Path) -> None:
        said = transformers.LlamaConfig(**GGUFSource(path).hf_config())
        assert {key: said.rope_parameters[key] for key in LLAMA3} == LLAMA3


class TestQwen2(GGUFSuite):
    config, arch = transformers.Qwen2Config(**SIZES | {"head_dim": 16}), "qwen2"


class TestQwen3(GGUFSuite):
    config, arch = transformers.Qwen3Config(**SIZES), "qwen3"


def test_the_real_model_answers(sample: GGUFSource) -> None:
    prompt = sample.tokenizer().apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, tokenize=False
    )
    with Engine(model_path=str(sample.path), max_total_tokens=256) as engine:
        params = {"temperature": 0, "max_new_tokens": 1}
        reply = engine.generate(f"{prompt}The capital of France is", params)
    assert reply["text"] == " Paris"
