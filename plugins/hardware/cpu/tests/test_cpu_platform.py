"""The platform does what the options say, and reads the machine as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from sgcore.config import Choices
from sgcore.plugins.resolve import resolve
from sgcore_cpu.cores import usable_cores
from sgcore_cpu.platform import CpuPlatform

CONFIG = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "vocab_size": 8}


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("threads", [1, None])
def test_threads_are_those_asked_for_or_every_core(tmp_path: Path, threads_restored: None, threads: int | None) -> None:
    pytest.importorskip("sgcore_llama")
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8, **CONFIG})
    )
    choices = Choices.of(model_path=str(tmp_path), platform="cpu", load_format="dummy", threads=threads)
    platform = CpuPlatform()
    platform.create_runner(resolve(choices))
    torch.set_num_threads(5)
    assert platform.initialise(0) == torch.device("cpu")
    assert torch.get_num_threads() == (threads or usable_cores())


def test_memory_is_no_more_than_the_machines() -> None:
    memory = CpuPlatform().memory()
    assert 0 < memory.free <= memory.total <= psutil.virtual_memory().total
