"""A core in a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from transformers import LlamaConfig

from sgcore.config import Choices
from sgcore.engine.client import start_core_process
from sgcore.plugins.resolve import resolve

SHAPE = dict(vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)


def test_a_core_that_can_not_start_says_why_and_ends(tmp_path: Path) -> None:
    config = LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"])
    config.save_pretrained(tmp_path)
    options = {"load_format": "dummy", "skip_tokenizer_init": True, "max_total_tokens": 10**12}
    plan = resolve(Choices.of(model_path=str(tmp_path), **options))
    frontend = start_core_process(plan, wait=False)
    with pytest.raises(Exception, match="KV cache would need"):
        frontend.wait_ready()
    time.sleep(0.3)  # its sockets are gone by now, and the process takes longer to end
    frontend.close()
