"""Offers the CPU: always there, and yields to any other device."""

from __future__ import annotations

from sgcore import hookimpl
from sgcore.api import PlatformOffer


@hookimpl
def sgcore_offer_platform() -> PlatformOffer:
    return PlatformOffer("cpu", "the host's processor", is_fallback=True)
