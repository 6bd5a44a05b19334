"""Rotary position embedding: cos and sin of a table gathered once a step."""

from __future__ import annotations

import torch
from torch import Tensor

from sgcore.api import Build, HfConfig
from sgcore.errors import LaunchError
from sgcore.runner.batch import ForwardBatch


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


def inverse_frequencies(config: HfConfig, head_dim: int) -> tuple[Tensor, float]:
    """Inverse frequencies (head_dim / 2,) and the attention factor that scales cos and sin."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
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
