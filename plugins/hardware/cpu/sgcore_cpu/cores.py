"""How many threads compute: one for each physical core that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(allowed: Iterable[int] | None = None, topology: Path = TOPOLOGY, quota: Path = QUOTA) -> int:
    """Physical cores of the affinity mask, but no more than the control group's share of time.

    Two threads of one core share its vector units: products gain nothing from the second.
    """
    cpus = os.sched_getaffinity(0) if allowed is None else set(allowed)
    cores = {_siblings(topology, cpu) for cpu in cpus}
    share = _share(quota)
    return max(1, len(cores) if share is None else min(len(cores), math.ceil(share)))


def _siblings(topology: Path, cpu: int) -> str:
    """What the threads of one core have in common; a core without a description is one of its own."""
    file = topology / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    try:
        return file.read_text().strip()
    except OSError:
        return str(cpu)


def _share(quota: Path) -> float | None:
    """Cores' worth of time that the group gets; None: all."""
    try:
        most, period = quota.read_text().split()
    except (OSError, ValueError):
        return None
    return None if most == "max" else int(most) / int(period)
