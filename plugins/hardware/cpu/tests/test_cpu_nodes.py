"""Memory alternates between the nodes that are used, where nobody has said otherwise."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgcore_cpu import nodes
from sgcore_cpu.nodes import DEFAULT, INTERLEAVE, SYSTEM_CALLS, interleave, policy, set_policy, used_nodes

needs_calls = pytest.mark.skipif(platform.machine() not in SYSTEM_CALLS, reason="its system calls aren't known")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    for node, cpus in {0: "0-3,8-11", 1: "4-7,12-15", 2: ""}.items():
        (tmp_path / f"node{node}").mkdir()
        (tmp_path / f"node{node}" / "cpulist").write_text(f"{cpus}\n")
    (tmp_path / "has_cpu").write_text("0-1\n")
    return tmp_path


@pytest.mark.parametrize(("cpus", "found"), [({1, 9}, [0]), ({12}, [1]), ({3, 4}, [0, 1]), ({99}, [])])
def test_nodes_are_those_of_the_cores(machine: Path, cpus: set[int], found: list[int]) -> None:
    assert used_nodes(cpus, machine) == found


def test_a_machine_without_a_description_has_none(tmp_path: Path) -> None:
    assert used_nodes({0}, tmp_path / "missing") == []


def in_a_thread(work: Callable[[], Any]) -> Any:
    """A policy is a thread's own."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@needs_calls
def test_a_policy_that_is_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    if in_a_thread(lambda: set_policy(INTERLEAVE, [0])) is False:
        pytest.skip("this system lets nobody set a policy")
    assert in_a_thread(lambda: (set_policy(INTERLEAVE, [0]), policy())) == (True, INTERLEAVE)
    monkeypatch.setattr(nodes, "used_nodes", lambda cpus: [0, 1])
    preferred = 1
    assert in_a_thread(lambda: (set_policy(preferred, [0]), interleave(), policy())) == (True, False, preferred)


@needs_calls
def test_one_node_needs_no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "used_nodes", lambda cpus: [0])
    assert in_a_thread(lambda: (interleave(), policy())) == (False, DEFAULT)
