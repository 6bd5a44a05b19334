"""A table in a file takes no memory after a prompt has read its rows; one that is nowhere else stays as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sgcore_cpu.kernels import LOOKED_UP, CpuKernels
from sgcore_cpu.tables import unmap

ROWS, SIZE = 8192, 1024


def resident() -> int:
    """Bytes of tables in files."""
    areas = psutil.Process().memory_maps(grouped=False)
    return sum(int(area.rss) for area in areas if area.path.endswith("table.safetensors"))


@pytest.fixture(scope="module")
def numbers() -> torch.Tensor:
    return torch.randn(ROWS, SIZE)


@pytest.fixture
def table(tmp_path: Path, numbers: torch.Tensor) -> torch.Tensor:
    """Mapped from a file, and not read yet."""
    save_file({"table": numbers}, tmp_path / "table.safetensors")
    mapped: torch.Tensor = safe_open(tmp_path / "table.safetensors", "pt").get_tensor("table")
    return mapped


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no list of pages")
@pytest.mark.parametrize("tokens, stays", [(LOOKED_UP, False), (LOOKED_UP - 1, True)])
def test_rows_of_a_prompt_go_back(table: torch.Tensor, numbers: torch.Tensor, tokens: int, stays: bool) -> None:
    kernels, ids = CpuKernels(), torch.arange(tokens) * (ROWS // tokens)
    for _ in range(2):
        unmap(table)
        rows = kernels.embedding(ids, table)
        assert (resident() > tokens * 30_000) == stays
        assert torch.equal(rows, numbers[ids])


@pytest.mark.parametrize("kind", ["written", "memory", "shorter than a page"])
def test_what_no_file_has_stays(table: torch.Tensor, kind: str) -> None:
    changed = {"written": table, "memory": torch.ones(ROWS, SIZE), "shorter than a page": torch.ones(3, 5)}[kind]
    changed[-1].fill_(3.0)
    expected = changed.clone()
    unmap(changed)
    assert torch.equal(changed, expected)
