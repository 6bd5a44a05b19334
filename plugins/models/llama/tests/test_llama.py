"""Llama and Mistral against transformers."""

from __future__ import annotations

from transformers import LlamaConfig, MistralConfig

from sgcore.testing.models import ModelSuite

SHAPE = dict(vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, head_dim=8, eos_token_id=1)  # fmt: skip
LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=64)  # fmt: skip


class TestLlama(ModelSuite):
    config = LlamaConfig(**SHAPE, attention_bias=True)


class TestLlama3(ModelSuite):
    config = LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True)


class TestMistralWithWindow(ModelSuite):
    config = MistralConfig(**SHAPE, sliding_window=24)
