"""Offers the GPU where its driver shows one, and says what suits it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgcore import hookimpl
from sgcore.api import PlatformOffer

DRIVER = Path("/proc/driver/nvidia/gpus")
DEVICE = Path("/dev/nvidia0")
STEP_TOKENS = 8192
"""A step of this many tokens fills the device; with fewer, products run below their best rate."""


@hookimpl
def sgcore_offer_platform() -> PlatformOffer | None:
    return PlatformOffer("cuda", "an NVIDIA GPU") if DEVICE.exists() or DRIVER.is_dir() else None


@hookimpl
def sgcore_default_options(plan: Any) -> Mapping[str, Any] | None:
    return {"chunked_prefill_size": STEP_TOKENS} if plan.platform.name == "cuda" else None
