"""The configuration in Hugging Face's words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sgcore.errors import LaunchError
from sgcore_gguf.configuration import generation_config, hf_config
from sgcore_gguf.header import Header, TensorInfo
from sgcore_gguf.source import GGUFSource


def header(arch: str = "llama", **changes: Any) -> Header:
    metadata = {
        "general.architecture": arch,
        f"{arch}.embedding_length": 64,
        f"{arch}.block_count": 2,
        f"{arch}.feed_forward_length": 96,
        f"{arch}.context_length": 128,
        f"{arch}.attention.head_count": 4,
        f"{arch}.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    shapes = {"token_embd.weight": (120, 64), "blk.0.attn_q.weight": (64, 64), "output.weight": (120, 64)}
    return Header(metadata, {name: TensorInfo(name, shape, 1, 0, 0) for name, shape in shapes.items()})


def test_smollm2(sample: GGUFSource) -> None:
    assert sample.hf_config() == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert sample.generation_config() == {"bos_token_id": 1, "pad_token_id": 2, "eos_token_id": [2]}
    assert sample.tensor_count() == 272


def test_defaults_where_the_file_is_silent() -> None:
    config = hf_config(header())
    assert (config["num_key_value_heads"], config["head_dim"], config["rope_theta"]) == (4, 16, 10000.0)
    assert (config["rms_norm_eps"], config["tie_word_embeddings"], config["dtype"]) == (1e-5, False, "float16")


def test_a_llama_with_a_window_is_a_mistral() -> None:
    config = hf_config(header(llama__attention__sliding_window=4096))
    assert (config["architectures"], config["sliding_window"]) == (["MistralForCausalLM"], 4096)


def test_rope_scaling() -> None:
    scaling = {
        "qwen2.rope.scaling.type": "yarn",
        "qwen2.rope.scaling.factor": 4.0,
        "qwen2.rope.scaling.original_context_length": 32768,
    }
    assert hf_config(header("qwen2", **scaling))["rope_scaling"] == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    }
    linear = header(llama__rope__scaling__type="linear", llama__rope__scaling__factor=2.0)
    assert hf_config(linear)["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert "rope_scaling" not in hf_config(header(llama__rope__scaling__type="none"))


def test_every_end_token_and_sampling_default() -> None:
    described = header(
        tokenizer__ggml__tokens=["a", "</s>", "<|im_end|>", "<|eom|>"],
        tokenizer__ggml__eos_token_id=1,
        tokenizer__ggml__eom_token_id=3,
        tokenizer__chat_template="{{ '<|im_end|>' }}",
        general__sampling__temp=float(np.float32(0.7)),
        general__sampling__top_k=20,
    )
    assert generation_config(described) == {"eos_token_id": [1, 3, 2], "temperature": 0.7, "top_k": 20}


@pytest.mark.parametrize(
    ("described", "named"),
    [
        (header("mamba"), "'mamba' is not known"),
        (header(llama__expert_count=8), "experts"),
        (header(llama__block_count=None), "lacks llama.block_count"),
        (header(llama__attention__head_count=[4, 8]), "differs between layers"),
        (header(llama__rope__scaling__type="longrope"), "longrope"),
        (Header(header().metadata, {}), "token_embd.weight"),
    ],
)
def test_what_cannot_be_said_is_named(described: Header, named: str) -> None:
    with pytest.raises(LaunchError, match=named):
        hf_config(described)


def test_rope_factors_that_are_not_llama3s() -> None:
    with pytest.raises(LaunchError, match="rope_freqs"):
        hf_config(header(), np.linspace(1, 3, 8, dtype=np.float32))
