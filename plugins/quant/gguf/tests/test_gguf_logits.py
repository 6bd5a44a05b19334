"""Tiny random checkpoints of transformers, exported as llama.cpp's converter does, give the same logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sgcore_gguf import source as source_module
from sgcore_gguf.source import GGUFSource

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 120,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def tiny(name: str, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def reload(path: Any) -> torch.nn.Module:
    """What GGUFSource says, as transformers' model: nothing missing, nothing too many."""
    source = GGUFSource(path)
    config = source.hf_config()
    name = config["architectures"][0]
    model = getattr(transformers, name)(getattr(transformers, name.replace("ForCausalLM", "Config"))(**config))
    missing, unexpected = model.load_state_dict(dict(source.tensors()), strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if config["tie_word_embeddings"] else [])
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


CASES = {
    "llama": ("llama", "Llama", {}),
    "llama tied": ("llama", "Llama", {"tie_word_embeddings": True}),
    "llama biased": ("llama", "Llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", "Qwen2", {"head_dim": 16}),
    "qwen3": ("qwen3", "Qwen3", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_same_logits(case: str, write_gguf, numbers, gguf_tensors) -> None:
    arch, name, changes = CASES[case]
    model = tiny(name, **changes)
    path = write_gguf(arch, numbers(arch, model.config), gguf_tensors(model, permutes=arch == "llama"))
    torch.testing.assert_close(logits(reload(path)), logits(model))


def test_llama_without_permuting_back_is_another_model(
    write_gguf, numbers, gguf_tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("Llama")
    path = write_gguf("llama", numbers("llama", model.config), gguf_tensors(model, permutes=True))
    monkeypatch.setattr(source_module, "permute_back", lambda tensor, heads: tensor)
    assert (logits(reload(path)) - logits(model)).abs().max() > 0.01


def test_llama3_rope_scaling_from_the_factors(write_gguf, numbers, gguf_tensors) -> None:
    model = tiny("Llama", rope_parameters=LLAMA3, head_dim=64)
    plain = 1 / 500000.0 ** (np.arange(0, 64, 2, dtype=np.float32) / 64)
    factors = (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    assert factors[-1] == pytest.approx(8.0)
    tensors = gguf_tensors(model, permutes=True) | {"rope_freqs.weight": factors}
    path = write_gguf("llama", numbers("llama", model.config), tensors)
    torch.testing.assert_close(logits(reload(path)), logits(model))


def test_the_real_model_answers(sample: GGUFSource) -> None:
    """With a wrong row order it would babble."""
    model = reload(sample.path)
    tokenizer = sample.tokenizer()
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(f"{prompt}The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        answer = model(ids, logits_to_keep=1).logits[0, -1].argmax()
    assert tokenizer.decode(answer) == " Paris"
