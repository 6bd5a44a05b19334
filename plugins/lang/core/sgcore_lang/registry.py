"""Installed words and backends, by name: entry points, imported when they are first used."""

from __future__ import annotations

from functools import cache
from typing import Any

from sgcore.errors import LaunchError
from sgcore.plugins.drivers import find, load
from sgcore.plugins.installed import Installed

WORDS, BACKENDS = "sgcore.primitives", "sgcore.lang_backends"


@cache
def installed() -> Installed:
    """What the distributions say they provide, read once."""
    return Installed.read()


@cache
def word(name: str) -> Any:
    """The class of a word. Raises AttributeError if no plugin provides it, with what is installed."""
    if name not in installed().names(WORDS):
        known = ", ".join(installed().names(WORDS))
        raise AttributeError(f"no installed plugin provides the word {name!r} (group {WORDS}); installed: {known}")
    try:
        return load(find("primitive", name, installed()))
    except LaunchError as error:
        raise AttributeError(f"{error}; {error.hint}") from error


@cache
def backend(name: str) -> Any:
    """The class of a backend. Raises AttributeError if no plugin provides it."""
    for entry in installed().group(BACKENDS):
        if entry.name == name and entry.is_compatible:
            module, _, attribute = entry.target.partition(":")
            return getattr(__import__(module, fromlist=[attribute]), attribute)
    raise AttributeError(f"no installed plugin provides the backend {name!r} (group {BACKENDS})")


def backends() -> list[str]:
    """Every installed backend."""
    return installed().names(BACKENDS)


def names() -> list[str]:
    """Every installed word and backend."""
    return [*installed().names(WORDS), *backends()]
