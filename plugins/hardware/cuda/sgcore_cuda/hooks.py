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

MIXED_TOKENS = 1024
"""Beside decode rows: their weights are read anyway, and so few more tokens hardly delay them."""


@hookimpl
def sgcore_offer_platform() -> PlatformOffer | None:
    return PlatformOffer("cuda", "an NVIDIA GPU") if DEVICE.exists() or DRIVER.is_dir() else None


@hookimpl
def sgcore_default_options(plan: Any) -> Mapping[str, Any] | None:
    if plan.platform.name != "cuda":
        return None
    return {"chunked_prefill_size": STEP_TOKENS, "mixed_chunk_size": MIXED_TOKENS}
