"""Qwen2 and Qwen3 against transformers."""

from __future__ import annotations

from transformers import Qwen2Config, Qwen3Config

from sgcore.testing.model_keys import REMOVED
from sgcore.testing.models import ModelSuite

SHAPE = dict(vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, eos_token_id=1)  # fmt: skip
FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW = dict(use_sliding_window=True, sliding_window=24)
WINDOWS = (
    dict(WINDOW, layer_types=REMOVED),
    dict(WINDOW, layer_types=REMOVED, max_window_layers=REMOVED),
    dict(WINDOW, layer_types=REMOVED, max_window_layers=0),
    dict(WINDOW, layer_types=REMOVED, max_window_layers=2),
    dict(WINDOW, layer_types=[SLIDING, FULL, SLIDING]),
    dict(WINDOW, layer_types=[FULL, FULL, FULL], max_window_layers=0),
    dict(WINDOW, layer_types=[SLIDING, FULL, SLIDING], use_sliding_window=False),
)


class TestQwen2(ModelSuite):
    config = Qwen2Config(**SHAPE)
    changes = WINDOWS


class TestQwen2WithWindow(ModelSuite):
    config = Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=24, max_window_layers=1)


class TestQwen3(ModelSuite):
    config = Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True)
    changes = WINDOWS
