"""What can't work is refused by name, before a weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers as hf

from sgcore import Engine
from sgcore.errors import LaunchError

SMALL: dict[str, Any] = dict(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, pad_token_id=0, max_position_embeddings=128,
)  # fmt: skip
LONGROPE = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 4, long_factor=[2.0] * 4, factor=2.0,
                original_max_position_embeddings=64)  # fmt: skip

REFUSED = {
    "BartForCausalLM": (hf.BartConfig(vocab_size=64, is_encoder_decoder=False, is_decoder=True), "position_ids"),
    "BertLMHeadModel": (hf.BertConfig(**SMALL), "later ones"),
    "BloomForCausalLM": (hf.BloomConfig(**SMALL, seq_length=128), "position_ids"),
    "DeepseekV3ForCausalLM": (hf.DeepseekV3Config(**SMALL, n_routed_experts=4), "mixture of experts"),
    "DiffLlamaForCausalLM": (hf.DiffLlamaConfig(**SMALL), "2 layers call transformers' attention interface 4 times"),
    "DogeForCausalLM": (hf.DogeConfig(**SMALL, num_experts=1), "mask of its own"),
    "FalconForCausalLM": (hf.FalconConfig(vocab_size=64, alibi=True), "alibi"),
    "Gemma2ForCausalLM": (hf.Gemma2Config(**SMALL), "attn_logit_softcapping"),
    "GPTJForCausalLM": (hf.GPTJConfig(**SMALL), "not through transformers' attention interface"),
    "GraniteSWAForCausalLM": (hf.GraniteSWAConfig(**SMALL), "takes s_aux"),
    "GptOssForCausalLM": (hf.GptOssConfig(**SMALL), "mixture of experts"),
    "Lfm2ForCausalLM": (hf.Lfm2Config(**SMALL), "conv"),
    "Llama4ForCausalLM": (hf.Llama4TextConfig(**SMALL, num_local_experts=1), "chunked_attention"),
    "MambaForCausalLM": (hf.MambaConfig(vocab_size=64, hidden_size=32), "a state"),
    "MiniCPM3ForCausalLM": (hf.MiniCPM3Config(**SMALL), "dimensions"),
    "Phi3ForCausalLM": (hf.Phi3Config(**SMALL, rope_parameters=LONGROPE), "longest sequence of a batch"),
    "Qwen3MoeForCausalLM": (hf.Qwen3MoeConfig(**SMALL, num_experts=4), "mixture of experts"),
    "T5ForConditionalGeneration": (hf.T5Config(vocab_size=64), "an encoder with a decoder"),
}


def start(config: Any, name: str, folder: Path) -> None:
    """Open an engine with random weights; raises what it refuses."""
    config.architectures = [name]
    config.save_pretrained(folder)
    options = {"load_format": "dummy", "skip_tokenizer_init": True, "max_total_tokens": 256, "context_length": 64}
    Engine(model_path=str(folder), **options).shutdown()


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_that_cannot_work(name: str, tmp_path: Path) -> None:
    config, reason = REFUSED[name]
    with pytest.raises(LaunchError, match=f"{name}.*{reason}"):
        start(config, name, tmp_path)


def test_an_architecture_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="has no causal language model 'MadeUp'") as caught:
        start(hf.LlamaConfig(**SMALL), "MadeUp", tmp_path)
    assert "newer transformers" in caught.value.hint
