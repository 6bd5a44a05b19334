"""Memory of several NUMA nodes: pages alternate between those whose cores are used, so that all of them are read."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

NODES = Path("/sys/devices/system/node")
SYSTEM_CALLS = {"x86_64": (238, 239), "aarch64": (237, 236)}
"""Numbers of set_mempolicy(2) and get_mempolicy(2), by architecture."""
DEFAULT, INTERLEAVE = 0, 3
"""Policies of linux/mempolicy.h."""
WORD_BITS = 64


def interleave() -> bool:
    """Let what this thread, and those that it starts, write first alternate between the nodes of its cores.

    False where nothing is changed: one node, a policy that somebody has set (numactl), or a system that refuses.
    """
    nodes, calls = used_nodes(os.sched_getaffinity(0)), SYSTEM_CALLS.get(platform.machine())
    return len(nodes) > 1 and calls is not None and policy() == DEFAULT and set_policy(INTERLEAVE, nodes)


def used_nodes(cpus: Iterable[int], nodes: Path = NODES) -> list[int]:
    """Numbers of the nodes that have any of the cores."""
    wanted = set(cpus)
    lists = {int(path.parent.name.removeprefix("node")): path for path in nodes.glob("node[0-9]*/cpulist")}
    return sorted(number for number, path in lists.items() if wanted & _numbers(path.read_text().strip()))


def _numbers(ranges: str) -> set[int]:
    """Of a list as `0-3,8`."""
    ends = [part.split("-") for part in ranges.split(",") if part]
    return {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}


def policy() -> int | None:
    """This thread's; None: the system doesn't say."""
    found = ctypes.c_int()
    _, get = SYSTEM_CALLS[platform.machine()]
    return None if ctypes.CDLL(None).syscall(get, ctypes.byref(found), None, 0, None, 0) else found.value


def set_policy(kind: int, nodes: Sequence[int]) -> bool:
    """Whether the system did it: containers may forbid it."""
    words = (ctypes.c_uint64 * (max(nodes, default=0) // WORD_BITS + 1))()
    for node in nodes:
        words[node // WORD_BITS] |= 1 << node % WORD_BITS
    call, _ = SYSTEM_CALLS[platform.machine()]
    # The kernel reads one bit less than it is told of.
    return bool(ctypes.CDLL(None).syscall(call, kind, words, len(words) * WORD_BITS + 1) == 0)
