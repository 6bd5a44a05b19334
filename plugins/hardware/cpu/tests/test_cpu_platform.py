"""The platform does what the options say, and reads the machine as it is."""

from __future__ import annotations

import json
import subprocess
import sys
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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_loading_frees_goes_back() -> None:
    """Small pieces of which every tenth stays: the system has the others again once all is loaded."""
    code = (
        "import psutil, torch\n"
        "from sgcore_cpu.platform import LARGE_BYTES, CpuPlatform, _set_allocator\n"
        "CpuPlatform().initialise(0)\n"
        "size = LARGE_BYTES // 8\n"
        "pieces = [torch.ones(size, dtype=torch.uint8) for _ in range(1000)]\n"
        "pieces = pieces[::10]\n"
        "before = psutil.Process().memory_info().rss\n"
        "_set_allocator(mapped_from=32 << 20)\n"
        "print((before - psutil.Process().memory_info().rss) / (900 * size), all(piece.all() for piece in pieces))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    share, is_whole = done.stdout.split()
    assert float(share) > 0.8 and is_whole == "True"
