"""Qwen2 (arXiv 2407.10671) and Qwen3 (arXiv 2505.09388)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from sgcore.api import HfConfig
from sgcore.layers.decoder import DecoderModel, DecoderStyle
from sgcore.model_config import HEAD, WINDOW, Rule, anything, flag, optional, shown, size

FULL, SLIDING = "full_attention", "sliding_attention"
OLD_WINDOW_LAYERS = 28
"""`max_window_layers` where neither it nor `layer_types` is said."""
KEYS: Mapping[str, Rule] = {
    **DecoderModel.keys,
    "use_sliding_window": flag,
    "sliding_window": optional(WINDOW),
    "max_window_layers": optional(size(1 << 10, 0)),
    "layer_types": anything,
}


class QwenStyle(DecoderStyle):
    """With `use_sliding_window` a window on layers: by `layer_types`, or from `max_window_layers` on."""

    def window(self, config: HfConfig, layer: int) -> int | None:
        kinds, first = config.get("layer_types"), config.get("max_window_layers", OLD_WINDOW_LAYERS)
        is_sliding = kinds[layer] == SLIDING if kinds else layer >= first
        return config.get("sliding_window") if is_sliding and config.get("use_sliding_window") else None

    def refusals(self, config: HfConfig) -> Sequence[str]:
        kinds, count = config.get("layer_types"), config["num_hidden_layers"]
        if not kinds:
            return ()
        if not isinstance(kinds, list) or len(kinds) != count or set(map(str, kinds)) - {FULL, SLIDING}:
            return [f"layer_types {shown(kinds)}: needed is {FULL} or {SLIDING} for each of {count} layers"]
        if SLIDING in kinds and not (config.get("use_sliding_window") and config.get("sliding_window")):
            return [f"layer_types have {SLIDING}: needed are use_sliding_window and sliding_window"]
        return ()


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

    keys: ClassVar[Mapping[str, Rule]] = KEYS
    style = Qwen2Style()


class Qwen3ForCausalLM(DecoderModel):
    """Qwen3, dense. Its heads are 128 where transformers finds no size; here one has to be said."""

    keys: ClassVar[Mapping[str, Rule]] = {**KEYS, "head_dim": HEAD}
    style = Qwen3Style()
