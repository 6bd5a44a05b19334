"""Which device, when the user didn't say."""

from __future__ import annotations

from sgcore.errors import LaunchError
from sgcore.plugins import packages
from sgcore.plugins.installed import Installed
from sgcore.plugins.manager import Answer, Hooks


def offered_platform(hooks: Hooks, installed: Installed) -> tuple[str, str]:
    """The platform that is present, and who offered it.

    Raises LaunchError if none is, or if two that are no fallback are.
    """
    answers = hooks.all("sgcore_offer_platform")
    strong = [answer for answer in answers if not answer.value.is_fallback]
    offers = strong or answers
    if len(offers) > 1:
        listed = " and ".join(_describe(answer) for answer in offers)
        flags = " or ".join(f"--platform {answer.value.name}" for answer in offers)
        raise LaunchError(f"two platforms are present: {listed}", f"choose with {flags}")
    if not offers:
        known = ", ".join(installed.names("sgcore.platforms")) or "none"
        raise LaunchError(
            f"no platform offers a device; installed platforms: {known}",
            f"name one with --platform, see `sgcore doctor`, or {packages.platforms()}",
        )
    return offers[0].value.name, f"offer of {offers[0].distribution}"


def _describe(answer: Answer) -> str:
    return f"{answer.value.name} ({answer.value.description}, from {answer.distribution})"
