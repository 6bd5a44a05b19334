"""A fault that a CUDA context does not survive ends the core with a word for it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from sgcore.testing.checkpoints import write_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

PROGRAM = """
import sys
from dataclasses import replace
from sgcore.config import Choices
from sgcore.engine.core import EngineCore, run_core
from sgcore.engine.messages import Failed, Request, SamplingParams
from sgcore.plugins.resolve import resolve

class Channel:
    asked = False

    def receive(self, timeout_s):
        asked, self.asked = self.asked, True
        return [] if asked else [Request("r", [5, 1 << 30], SamplingParams(max_new_tokens=9))]

    def send(self, message):
        if isinstance(message, Failed):
            print("lost" if message.is_device_lost else "failed", message.message)

    def close(self):
        print("closed", flush=True)

def unchecked(core, run=EngineCore.run):
    core.scheduler.limits = replace(core.scheduler.limits, vocab_size=1 << 31)
    run(core)

EngineCore.run = unchecked
plan = resolve(Choices.of(model_path=sys.argv[1], platform="cuda", skip_tokenizer_init=True, max_total_tokens=4096))
run_core(plan, Channel(), owns_process=True)
"""


def test_an_id_without_an_embedding_loses_the_device(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=199,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
    )
    write_checkpoint(config, tmp_path)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "lost DeviceLost: the device failed" in ended.stdout, ended.stdout + ended.stderr[-2000:]
    assert ended.returncode == 1 and ended.stdout.endswith("closed\n")
