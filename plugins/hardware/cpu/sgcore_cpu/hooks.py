"""Offers the CPU: always there, and yields to any other device."""

from __future__ import annotations

from sgcore import hookimpl
from sgcore.api import PlatformOffer
from sgcore_cpu.library import describe


@hookimpl
def sgcore_offer_platform() -> PlatformOffer:
    return PlatformOffer("cpu", f"the host's processor: {describe()}", is_fallback=True)
