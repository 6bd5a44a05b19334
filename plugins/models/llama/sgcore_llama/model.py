"""Llama (arXiv 2302.13971, 2407.21783) and Mistral (arXiv 2310.06825)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sgcore.api import HfConfig
from sgcore.layers.decoder import DecoderModel, DecoderStyle
from sgcore.model_config import WINDOW, Rule, optional


class LlamaForCausalLM(DecoderModel):
    """Pre-norm decoder with grouped-query attention, rotary positions and a gated MLP."""


class MistralStyle(DecoderStyle):
    """Llama with a sliding window on every layer, where the configuration has one."""

    def window(self, config: HfConfig, layer: int) -> int | None:
        size = config.get("sliding_window")
        return None if size is None else int(size)


class MistralForCausalLM(DecoderModel):
    """Llama's layers with Mistral's window."""

    keys: ClassVar[Mapping[str, Rule]] = {**DecoderModel.keys, "sliding_window": optional(WINDOW)}
    style = MistralStyle()
