"""GGUF by the suite of all sources, with files as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType
from torch import Tensor

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
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def numbers(arch: str, config: Any) -> dict[str, Any]:
    """A transformers configuration as GGUF's metadata."""
    return {
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{arch}.rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }


def gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}" if layer.isdecimal() else f"{GGUF_NAMES[stem]}.{kind}"


def permute(weight: Tensor, heads: int) -> Tensor:
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape).contiguous()


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
    def writer(self, write_gguf: Callable[..., Path]) -> None:
        self.write_gguf = write_gguf

    def write(self, checkpoint: Checkpoint, folder: Path) -> Path:
        metadata = numbers(self.arch, checkpoint.model.config)
        metadata |= {} if checkpoint.tokenizer is None else words(checkpoint.tokenizer)
        return self.write_gguf(self.arch, metadata, dict(self.converted(checkpoint)) | self.more, folder)

    def converted(self, checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
        config = checkpoint.model.config
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for name, tensor in checkpoint.tensors.items():
            part = name.split(".")[-2]
            tensor = permute(tensor, heads[part]) if self.arch == "llama" and part in heads else tensor
            is_bfloat16 = tensor.dtype == torch.bfloat16
            plain = (tensor.view(torch.uint8).numpy(), GGMLQuantizationType.BF16) if is_bfloat16 else tensor.numpy()
            yield gguf_name(name), plain


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
