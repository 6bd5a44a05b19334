"""What each `general.architecture` is called in Hugging Face's words."""

from __future__ import annotations

from dataclasses import dataclass

from sgcore.errors import LaunchError

TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
DERIVED = ("rope_freqs", "attn_rot_embd")
"""Tensors that the configuration says already."""


@dataclass(frozen=True)
class Architecture:
    """One architecture of GGUF."""

    hf_architecture: str
    model_type: str
    permutes_qk: bool = False
    """llama.cpp's converter interleaves the halves of each head in q and k."""


ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", "llama", permutes_qk=True),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2"),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3"),
}


def architecture(name: str) -> Architecture:
    """Raises `LaunchError` for an architecture that isn't known."""
    if name not in ARCHITECTURES:
        raise LaunchError(
            f"GGUF architecture {name!r} is not known; known: {', '.join(ARCHITECTURES)}",
            "serve the model from its Hugging Face folder",
        )
    return ARCHITECTURES[name]


def hf_name(name: str) -> str | None:
    """Hugging Face's name for a tensor; None: the configuration says it. Raises `LaunchError` for an unknown one."""
    stem, _, kind = name.rpartition(".")
    if stem.rpartition(".")[2] in DERIVED:
        return None
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.{kind}"
    prefix, _, rest = stem.partition(".")
    layer, _, part = rest.partition(".")
    if prefix == "blk" and layer.isdecimal() and part in LAYER_NAMES:
        return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"
    raise LaunchError(f"GGUF tensor {name!r} has no known place in the model")
