from __future__ import annotations

import pytest

from sgcore.errors import LaunchError
from sgcore.plugins.offers import offered_platform


def offer(site, name: str, is_fallback: bool = False) -> None:
    site.plugin(
        f"p-{name}",
        f"""
        from sgcore.api import PlatformOffer

        @hookimpl
        def sgcore_offer_platform():
            return PlatformOffer({name!r}, "a device", {is_fallback})
        """,
    )


def test_a_device_beats_the_fallback(site):
    offer(site, "host", is_fallback=True)
    offer(site, "fast")
    assert offered_platform(site.hooks(), site.installed()) == ("fast", "offer of p-fast")


def test_the_fallback_is_taken_alone(site):
    offer(site, "host", is_fallback=True)
    assert offered_platform(site.hooks(), site.installed())[0] == "host"


def test_two_devices_are_an_error_that_names_both(site):
    offer(site, "fast")
    offer(site, "quick")
    with pytest.raises(LaunchError, match=r"fast \(a device, from p-fast\) and quick") as caught:
        offered_platform(site.hooks(), site.installed())
    assert "--platform fast or --platform quick" in caught.value.hint


def test_no_device_says_what_is_installed(site):
    site.install("p-one", {"sgcore.platforms": {"fast": "m:Fast"}})
    with pytest.raises(LaunchError, match="installed platforms: fast"):
        offered_platform(site.hooks(), site.installed())
