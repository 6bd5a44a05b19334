"""How kernels of this package start: overlapped with the end of the one before, where the device can."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from sgcore_triton.targets import has_dependent_launch


EARLY = 2


@triton.jit
def wait_for_inputs(PDL: tl.constexpr):
    """Return once the kernels launched before have ended; only constants may be read until then.

    Kernels launched afterwards may start from here on: their own wait makes the overlap safe.
    """
    if PDL == 2:
        tl.extra.cuda.gdc_launch_dependents()
    if PDL:
        tl.extra.cuda.gdc_wait()
    if PDL == 1:
        tl.extra.cuda.gdc_launch_dependents()


def overlap(x: Tensor) -> dict[str, Any]:
    """Launch arguments of a kernel that calls `wait_for_inputs` before it touches anything but weights."""
    return {"PDL": EARLY, "launch_pdl": True} if has_dependent_launch(x) else {"PDL": 0}
