"""What can't work is refused by name, before a weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from sgcore import Engine
from sgcore.errors import LaunchError
from sgcore.testing.checkpoints import greedy_tokens

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
    "MoshiForCausalLM": (hf.MoshiConfig(**SMALL, sliding_window=8), "which layers have a window"),
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


def test_no_architecture_at_all(tmp_path: Path) -> None:
    config = {**hf.LlamaConfig(**SMALL).to_dict(), "architectures": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LaunchError, match="has no causal language model None of the type 'llama'"):
        Engine(model_path=str(tmp_path), model_impl="transformers", load_format="dummy", skip_tokenizer_init=True)


def test_own_words_for_sizes_are_mended_by_the_flag_that_the_error_names(tmp_path: Path) -> None:
    config = hf.GPT2Config(vocab_size=64, n_positions=128, n_embd=32, n_layer=2, n_head=4)
    with pytest.raises(LaunchError, match="no hidden_size and no num_attention_heads") as caught:
        start(config, "GPT2LMHeadModel", tmp_path)
    flag, words = caught.value.hint.split(" ", 1)
    assert flag == "--json-model-override-args"
    torch.manual_seed(0)
    model = hf.GPT2LMHeadModel(config).eval()
    model.transformer.save_pretrained(tmp_path)
    config.architectures = ["GPT2LMHeadModel"]
    config.save_pretrained(tmp_path)
    options: dict[str, Any] = {"skip_tokenizer_init": True, "max_total_tokens": 256, "dtype": "float32"}
    prompt = [5, 6, 7, 8, 9]
    with Engine(model_path=str(tmp_path), json_model_override_args=words.strip("'"), **options) as engine:
        reply = engine.generate(input_ids=prompt, sampling_params={"temperature": 0, "max_new_tokens": 8})
    assert reply["output_ids"] == greedy_tokens(model, prompt, 8)
