"""How kernels of this package start: overlapped with the end of the one before, where the device can."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from sgcore_triton.targets import has_dependent_launch


@triton.jit
def wait_for_inputs(PDL: tl.constexpr):
    """Return once the kernels launched before have ended; only constants may be read until then.

    The next kernel may start at once: its own wait makes the overlap safe, as long as some program of every kernel
    waits. 28 layers of a 0.6B model took 457 µs for one token so, 482 with the signal after the wait, 607 without.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


def overlap(x: Tensor) -> dict[str, Any]:
    """Launch arguments of a kernel that calls `wait_for_inputs` before it touches anything but weights."""
    return {"PDL": True, "launch_pdl": True} if has_dependent_launch(x) else {"PDL": False}
