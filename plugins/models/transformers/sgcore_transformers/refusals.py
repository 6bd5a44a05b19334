"""What a configuration asks for that paged attention or the cache can't do, without torch or transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sgcore.api import HfConfig

LAYERS = {"full_attention", "sliding_attention"}
OTHER_PARTS = ("vision_config", "audio_config", "text_config", "encoder", "decoder")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
STATES = ("mamba_", "ssm_", "state_size", "rwkv_", "conv_L_cache", "linear_")
MOVING_ROPES = ("dynamic", "longrope")


def reasons(config: HfConfig) -> list[str]:
    """All reasons against a configuration, in words; empty where it may work."""
    return list(_reasons(config))


def _reasons(config: HfConfig) -> Iterator[str]:
    if config.get("is_encoder_decoder"):
        yield "it is an encoder with a decoder"
    if any(isinstance(config.get(key), Mapping) for key in OTHER_PARTS):
        yield "it has parts beside a text decoder (multimodal)"
    if any(_count(config.get(key)) > 1 for key in EXPERTS):
        yield "it is a mixture of experts, whose fused weights are converted as they load"
    if any(key.startswith(STATES) and value for key, value in config.items()):
        yield "it has layers with a state (state space, convolution or linear attention)"
    if other := sorted({str(kind) for kind in config.get("layer_types") or ()} - LAYERS):
        yield f"it has layers of the kind {', '.join(other)}"
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        key = "use_bidirectional_attention" if config.get("use_bidirectional_attention") else "is_causal"
        yield f"its tokens attend to later ones ({key})"
    if config.get("attn_logit_softcapping"):
        yield "it caps attention's scores (attn_logit_softcapping), which no attention backend does"
    if config.get("alibi"):
        yield "it adds to attention's scores by distance (alibi), which no attention backend does"
    if config.get("num_kv_shared_layers"):
        yield "layers share their keys and values (num_kv_shared_layers)"
    if kinds := sorted(_rope_kinds(config) & set(MOVING_ROPES)):
        key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
        yield f"its rotation depends on the longest sequence of a batch ({key}: {', '.join(kinds)})"


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _rope_kinds(config: HfConfig) -> set[str]:
    """Rope types of the configuration, those of single kinds of layer included."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, Mapping))]
    return {str(part.get("rope_type") or part.get("type")) for part in parts}
