"""Threads are counted by cores, masks and quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sgcore_cpu.cores import usable_cores

NO_QUOTA = Path("/no/quota")


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    """Four cores of two threads each: 0 and 4, 1 and 5, and so on."""
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("allowed", "cores"), [(range(8), 4), (range(4), 4), ([0, 4], 1), ([1], 1), ([0, 1, 4, 6], 3), ([90, 91], 2)]
)
def test_two_threads_of_a_core_are_one(topology: Path, allowed: list[int], cores: int) -> None:
    assert usable_cores(allowed, topology, NO_QUOTA) == cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000", 4), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)],
)
def test_no_more_threads_than_the_group_may_run(topology: Path, tmp_path: Path, text: str, cores: int) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    assert usable_cores(range(8), topology, quota) == cores


def test_this_machine() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
