"""`config.json` and `generation_config.json` from a GGUF file's metadata."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from sgcore.errors import LaunchError
from sgcore.model_config import SIZES, number, refused
from sgcore_gguf.architectures import Architecture, architecture
from sgcore_gguf.header import DAMAGED, Header

NUMBERS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
OPTIONAL = ("attention.head_count_kv", "rope.freq_base")
DTYPES = {
    GGMLQuantizationType.F32: "float32",
    GGMLQuantizationType.F16: "float16",
    GGMLQuantizationType.BF16: "bfloat16",
}
SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>")
"""End-of-turn tokens of files that are older than `tokenizer.ggml.eot_token_id`."""


def hf_config(header: Header, rope_factors: NDArray[np.float32] | None = None) -> dict[str, Any]:
    """The model's configuration; `rope_factors` (head_dim / 2,) is `rope_freqs.weight`, where the file has one.

    Raises `LaunchError` for what can't be said in Hugging Face's words.
    """
    name = str(header.metadata.get("general.architecture", ""))
    known = architecture(name)
    config: dict[str, Any] = {"architectures": [known.hf_architecture], "model_type": known.model_type}
    config |= {"rope_theta": 10000.0, "hidden_act": "silu", **_numbers(header, name)}
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    config["vocab_size"] = header.tensors["token_embd.weight"].shape[0]
    config["head_dim"] = _row_count(header, "blk.0.attn_q.weight") // config["num_attention_heads"]
    config["tie_word_embeddings"] = "output.weight" not in header.tensors
    config |= _biases(header, known) | _window(header, name, known) | _special_ids(header) | _dtype(header)
    scaling = _rope_scaling(header, name)
    if rope_factors is not None:
        scaling = _llama3_scaling(config, rope_factors.astype(np.float64))
    return config | ({"rope_scaling": scaling} if scaling else {})


def generation_config(header: Header) -> dict[str, Any]:
    """Every token that ends an answer, and the sampling defaults that the file names."""
    ends = _end_ids(header)
    sampling = {hf: header.metadata.get(f"general.sampling.{key}") for key, hf in SAMPLING.items()}
    config = {key: _short(value) for key, value in sampling.items() if value is not None}
    ids = _special_ids(header)
    ids.pop("eos_token_id", None)
    return {**ids, **({"eos_token_id": ends} if ends else {}), **config}


def _numbers(header: Header, name: str) -> dict[str, Any]:
    if header.metadata.get(f"{name}.expert_count"):
        raise LaunchError(f"GGUF architecture {name!r} with experts is not supported")
    found: dict[str, Any] = {}
    for key, hf in NUMBERS.items():
        value = header.metadata.get(f"{name}.{key}")
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise LaunchError(f"{name}.{key} differs between layers, which is not supported")
            value = value[0]
        if value is not None:
            found[hf] = _short(value)
    if wrong := refused(found, {hf: SIZES.get(hf, number) for hf in found}):
        raise LaunchError(f"the GGUF file's {name} model can't be right: {'; '.join(wrong)}", DAMAGED)
    missing = [key for key, hf in NUMBERS.items() if hf not in found and key not in OPTIONAL]
    if missing or "token_embd.weight" not in header.tensors:
        raise LaunchError(f"the GGUF file lacks {', '.join(f'{name}.{key}' for key in missing) or 'token_embd.weight'}")
    return found


def _row_count(header: Header, name: str) -> int:
    if name not in header.tensors:
        raise LaunchError(f"the GGUF file has no tensor {name}")
    return header.tensors[name].shape[0]


def _biases(header: Header, known: Architecture) -> dict[str, Any]:
    """Qwen2's own biases are part of its architecture; the others say so in the configuration."""
    if known.model_type == "qwen2":
        return {}
    return {
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
    }


def _window(header: Header, name: str, known: Architecture) -> dict[str, Any]:
    """A Llama with a sliding window is a Mistral."""
    window = header.metadata.get(f"{name}.attention.sliding_window")
    if not window:
        return {}
    if known.model_type == "llama":
        return {"sliding_window": window, "architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    return {"sliding_window": window, "use_sliding_window": True, "max_window_layers": 0}


def _special_ids(header: Header) -> dict[str, Any]:
    keys = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}
    found = {hf: header.metadata.get(f"tokenizer.ggml.{key}") for key, hf in keys.items()}
    return {key: value for key, value in found.items() if value is not None}


def _end_ids(header: Header) -> list[int]:
    found = [header.metadata.get(f"tokenizer.ggml.{key}") for key in END_KEYS]
    template = str(header.metadata.get("tokenizer.chat_template", ""))
    tokens = header.metadata.get("tokenizer.ggml.tokens", [])
    found += [tokens.index(text) for text in TURN_ENDS if text in template and text in tokens]
    return list(dict.fromkeys(value for value in found if value is not None))


def _dtype(header: Header) -> dict[str, Any]:
    """The weights' type; quantised files say nothing, and the platform's best type is taken."""
    kinds = {info.kind for info in header.tensors.values() if len(info.shape) > 1}
    dtypes = {DTYPES.get(kind) for kind in kinds}
    return {"dtype": dtypes.pop()} if len(dtypes) == 1 and None not in dtypes else {}


def _rope_scaling(header: Header, name: str) -> dict[str, Any] | None:
    rope = {key.removeprefix(f"{name}.rope.scaling."): value for key, value in header.metadata.items()}
    kind = rope.get("type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise LaunchError(f"{name}.rope.scaling.type {kind!r} is not supported; supported: linear, yarn")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": _short(rope.get("factor", 1.0))}
    if kind == "yarn":
        names = {
            "original_context_length": "original_max_position_embeddings",
            "yarn_attn_factor": "attention_factor",
            "yarn_beta_fast": "beta_fast",
            "yarn_beta_slow": "beta_slow",
        }
        scaling |= {hf: _short(rope[key]) for key, hf in names.items() if key in rope}
    return scaling


def _llama3_scaling(config: dict[str, Any], factors: NDArray[np.float64]) -> dict[str, Any]:
    """Llama 3's scaling, which GGUF keeps as a tensor of factors: the lowest frequency has the whole factor."""
    scaling = {
        "rope_type": "llama3",
        "factor": _short(float(factors[-1])),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if len(factors) != config["head_dim"] // 2 or not np.allclose(_llama3_factors(config, scaling), factors, rtol=1e-3):
        raise LaunchError("the GGUF file's rope_freqs.weight is not Llama 3's scaling, which is the one supported")
    return scaling


def _llama3_factors(config: dict[str, Any], scaling: dict[str, Any]) -> NDArray[np.float64]:
    dim, theta, factor = config["head_dim"], config["rope_theta"], scaling["factor"]
    wavelengths = 2 * math.pi * theta ** (np.arange(0, dim, 2) / dim)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = (scaling["original_max_position_embeddings"] / wavelengths - low) / (high - low)
    smooth = np.clip(smooth, 0, 1)
    factors: NDArray[np.float64] = 1 / ((1 - smooth) / factor + smooth)
    return factors


def _short(value: Any) -> Any:
    """A float32 as the number that was meant: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
