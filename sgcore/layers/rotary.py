"""Rotary position embedding: cos and sin of a table gathered once a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sgcore.api import Build, HfConfig
from sgcore.errors import LaunchError
from sgcore.model_config import shown
from sgcore.runner.batch import ForwardBatch

BY_LENGTH = "longrope"
"""The kind whose factors depend on the length of the sequence."""
WHOLE_HEAD = "proportional"
"""The kind that gives frequencies for whole heads, whatever part of them is turned."""


class RotaryTable:
    """cos and sin of every position (positions, head_dim), float32, built by transformers' own rope functions.

    `rope_type` of `rope_parameters` or `rope_scaling` picks the scaling (linear, llama3, yarn, ...).
    """

    def __init__(self, config: HfConfig, head_dim: int, build: Build) -> None:
        inv_freq, factor = inverse_frequencies(config, head_dim)
        positions = torch.arange(int(config.get("max_position_embeddings") or 4096), dtype=torch.float32)
        angles = torch.outer(positions, inv_freq)
        angles = torch.cat((angles, angles), dim=-1)
        self.cos = (angles.cos() * factor).to(build.device, build.dtype)
        self.sin = (angles.sin() * factor).to(build.device, build.dtype)

    def gather(self, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        """cos and sin for the batch's positions, (tokens, 1, head_dim)."""
        if self not in batch.rope:
            batch.rope[self] = (self.cos[batch.positions].unsqueeze(1), self.sin[batch.positions].unsqueeze(1))
        return batch.rope[self]


def rope_refusals(config: HfConfig, head_dim: int, context_tokens: int) -> list[str]:
    """What a `RotaryTable` can't do of the configuration, and which key says it."""
    rope = _parameters(config)
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    if not isinstance(rope, Mapping):
        return [f"{name} {shown(rope)}: needed is an object"]
    if kinds := [key for key, value in rope.items() if isinstance(value, Mapping)]:
        return [f"{name} has parts for {', '.join(kinds)}: needed is one for all layers"]
    kind, part = _kind(rope), rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part not in (None, 1) and kind != WHOLE_HEAD:
        return [f"partial_rotary_factor {shown(part)}: needed is 1, since whole heads are rotated"]
    original = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    if kind == BY_LENGTH and isinstance(original, int) and context_tokens > original:
        return [
            f"{name} of type {kind!r} has other factors for sequences of more than {original} tokens, which cached "
            f"keys don't follow: serve shorter ones with --context-length {original}"
        ]
    try:
        frequencies, factor = inverse_frequencies(config, head_dim)
    except LaunchError as error:
        return [f"{name}: {error}"]
    except Exception as error:  # whatever transformers' own checks raise
        return [f"{name} of type {kind!r} can't be had from {shown(dict(rope))}: {_last_line(error)}"]
    if len(frequencies) * 2 != head_dim or not frequencies.isfinite().all() or not math.isfinite(factor):
        return [f"{name} of type {kind!r} gives no finite frequencies for heads of {head_dim} from {shown(dict(rope))}"]
    return []


def inverse_frequencies(config: HfConfig, head_dim: int) -> tuple[Tensor, float]:
    """Inverse frequencies (head_dim / 2,) and the attention factor that scales cos and sin."""
    rope = dict(_parameters(config))
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = _kind(rope)
    if kind == "default":
        return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim), 1.0
    from transformers import PreTrainedConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if kind not in ROPE_INIT_FUNCTIONS:
        raise LaunchError(f"rope type {kind!r} is not known; known: default, {', '.join(ROPE_INIT_FUNCTIONS)}")
    plain = {name: value for name, value in config.items() if name not in ("rope_scaling", "rope_theta")}
    described = PreTrainedConfig(**{**plain, "head_dim": head_dim, "rope_parameters": {**rope, "rope_theta": theta}})
    inv_freq, factor = ROPE_INIT_FUNCTIONS[kind](described, torch.device("cpu"))
    return inv_freq, float(factor)


def _parameters(config: HfConfig) -> Any:
    """The older key counts where both are there, as in transformers."""
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _last_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}" if str(error).strip() else repr(error)


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")
