"""OLMo 2 against transformers."""

from __future__ import annotations

from transformers import Olmo2Config

from sgcore.testing.models import ModelSuite

SHAPE = dict(vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
             num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, eos_token_id=1)  # fmt: skip


class TestOlmo2(ModelSuite):
    config = Olmo2Config(**SHAPE)
