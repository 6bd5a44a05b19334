"""Qwen2 (arXiv 2407.10671) and Qwen3 (arXiv 2505.09388)."""

from __future__ import annotations

from sgcore.api import HfConfig
from sgcore.layers.decoder import DecoderModel, DecoderStyle


class QwenStyle(DecoderStyle):
    """A sliding window on the layers from `max_window_layers` on, if `use_sliding_window`."""

    def window(self, config: HfConfig, layer: int) -> int | None:
        if not config.get("use_sliding_window") or layer < int(config.get("max_window_layers") or 0):
            return None
        size = config.get("sliding_window")
        return None if size is None else int(size)


class Qwen2Style(QwenStyle):
    """Biases on q, k and v, none on the output."""

    def qkv_bias(self, config: HfConfig) -> bool:
        return True

    def output_bias(self, config: HfConfig) -> bool:
        return False


class Qwen3Style(QwenStyle):
    """Norms on the heads of q and k instead of biases."""

    norms_qk = True


class Qwen2ForCausalLM(DecoderModel):
    """Qwen2, Qwen2.5."""

    style = Qwen2Style()


class Qwen3ForCausalLM(DecoderModel):
    """Qwen3, dense."""

    style = Qwen3Style()
