"""The host's processor as a platform."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sgcore.api import Memory, Platform, Runner
from sgcore.kernels import Kernels
from sgcore.memory import release_libraries, return_freed
from sgcore.plugins.plan import Plan
from sgcore_cpu.cores import usable_cores
from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.library import OFF, chosen_level, multiplies_bfloat16
from sgcore_cpu.nodes import interleave
from sgcore_cpu.pages import Moving
from sgcore_cpu.tape import recorded

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""
KEPT_BYTES = 1 << 30
LARGE_BYTES = 1 << 20
"""While loading, what is as large goes back at once; mapping less anew takes a third of the time."""


class CpuPlatform(Platform):
    """Computes in float32 unless the processor multiplies bfloat16 natively."""

    name = "cpu"
    device_type = "cpu"
    dtypes = ("float32", "float64", "bfloat16") if multiplies_bfloat16() else ("float32", "float64")
    default_attention = "cpu_native"
    memory_share = 0.4
    cache_bytes = 4 << 30  # the machine is its user's too; vLLM takes as much on a CPU
    graph_rows = 32

    def __init__(self) -> None:
        self.threads = usable_cores()
        self._moving = Moving(())

    def create_runner(self, plan: Plan) -> Runner:
        self.threads = int(plan.options["threads"] or self.threads)
        return super().create_runner(plan)

    def initialise(self, rank: int) -> torch.device:
        interleave()
        torch.set_num_threads(self.threads)
        torch.set_flush_denormal(True)
        _set_allocator(mapped_from=LARGE_BYTES)
        release_libraries()
        return torch.device("cpu")

    def weights_loaded(self, weights: Sequence[Tensor]) -> None:
        self._moving = Moving(weights)
        _set_allocator(mapped_from=32 << 20)

    @torch.inference_mode(False)
    def settle(self) -> bool:
        is_moving = self._moving.some()
        if not is_moving:
            release_libraries()
        return is_moving

    def memory(self) -> Memory:
        """Bytes from /proc/meminfo, bounded by the control group's limit."""
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
        limit = _group_limit()
        return Memory(min(total, limit), min(free, limit)) if limit else Memory(total, free)

    def kernels(self) -> Kernels:
        return CpuKernels()

    @property
    def can_capture(self) -> bool:  # type: ignore[override]
        return chosen_level() != OFF

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Native calls and operations of torch: a step without the model's Python."""
        with recorded() as tape:
            work()
        return tape.run


def _set_allocator(mapped_from: int) -> None:
    """Have glibc give back what is free, and from now on map what is as large and keep the rest when it is freed.

    So what loading leaves goes back, and the temporaries of each step stay: mapping and zeroing them anew takes time.
    """
    return_freed()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, mapped_from)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _group_limit() -> int | None:
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text().strip() if path.exists() else "max"
    return None if text == "max" else int(text)
