"""Moved weights have the same numbers in the same layout, in memory that may have huge pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from sgcore_cpu import pages
from sgcore_cpu.pages import ALIGNMENT, HUGE_PAGE, SLICE_BYTES, Moving, move_to_huge_pages, page_size

has_pages = pytest.mark.skipif(HUGE_PAGE > SLICE_BYTES, reason="this kernel's huge pages are too large for weights")


def advised() -> list[range]:
    """Addresses of the process that are advised to have huge pages."""
    found, here = [], range(0)
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if header := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            here = range(int(header[1], 16), int(header[2], 16))
        elif line.startswith("VmFlags:") and "hg" in line.split():
            found.append(here)
    return found


@has_pages
def test_weights_move_with_their_layout() -> None:
    rows = torch.randn(HUGE_PAGE // 3000 + 1, 1000)
    weights = [torch.nn.Parameter(x, requires_grad=False) for x in (rows, rows.half().T, rows[:3].bfloat16())]
    before = [weight.clone() for weight in weights]
    strides = [weight.stride() for weight in weights]
    move_to_huge_pages(weights)
    for weight, was, stride in zip(weights, before, strides, strict=True):
        assert torch.equal(weight, was) and weight.stride() == stride
        assert weight.data_ptr() % ALIGNMENT == 0
        assert any(weight.data_ptr() in memory for memory in advised())
    assert weights[0].data_ptr() % HUGE_PAGE == 0


@has_pages
def test_they_move_slice_by_slice() -> None:
    weights = [torch.full((SLICE_BYTES // 8,), float(number)) for number in range(5)]
    places = [weight.data_ptr() for weight in weights]
    moving = Moving(weights)
    moved = []
    while moving.some():
        moved.append(sum(weight.data_ptr() != place for weight, place in zip(weights, places, strict=True)))
    assert moved == [2, 4, 5]
    assert all(torch.all(weight == number) for number, weight in enumerate(weights))


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(HUGE_PAGE // 8), torch.ones(HUGE_PAGE // 4, 3)[:, :2], torch.empty(0)],
    ids=["few", "gaps", "none"],
)
def test_others_stay(tensor: torch.Tensor) -> None:
    place = tensor.data_ptr()
    move_to_huge_pages([tensor])
    assert tensor.data_ptr() == place


def test_pages_have_the_size_that_the_kernel_says(tmp_path: Path) -> None:
    said = tmp_path / "hpage_pmd_size"
    assert page_size(said) == 2 << 20
    said.write_text("33554432\n")
    assert page_size(said) == 32 << 20


def test_pages_that_are_larger_than_a_slice_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "HUGE_PAGE", 4 << 20)
    monkeypatch.setattr(pages, "SLICE_BYTES", 2 << 20)
    tensor = torch.ones(2 << 20)
    place = tensor.data_ptr()
    move_to_huge_pages([tensor])
    assert tensor.data_ptr() == place
