"""Which value each option has, and who set it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from sgcore.config import FLAT_NAMES, Choices
from sgcore.errors import LaunchError
from sgcore.plugins.manager import Answer
from sgcore.plugins.plan import Decision

OPEN_GROUPS = ("runtime", "schedule", "server")
"""Groups whose options plugins may give defaults to."""
DECIDED = ("platform", "attention_backend", "grammar_backend", "api_key")
"""Options that are decided before plugins are asked for defaults, or that are nobody's to give."""


class PluginOptionParser:
    """Collects the options that plugins add: name -> default and help."""

    def __init__(self) -> None:
        self.options: dict[str, tuple[str | int | float | bool | None, str]] = {}

    def add(self, name: str, default: str | int | float | bool | None, help: str) -> None:
        """Add one option; `-` in a name counts as `_`. Raises LaunchError for a name that is taken."""
        key = name.replace("-", "_")
        if key in FLAT_NAMES or key in self.options:
            raise LaunchError(f"option {name!r} is taken")
        self.options[key] = (default, help)


def plugin_values(parser: PluginOptionParser, choices: Choices) -> dict[str, Any]:
    """Values of the plugins' options. Raises LaunchError for a value that no plugin asked for."""
    said = choices.plugins.plugin_options
    unknown = sorted(set(said) - set(parser.options))
    if unknown:
        raise LaunchError(f"no installed plugin has the option {unknown[0]!r}", exit_code=2)
    return {name: said.get(name, default) for name, (default, _) in parser.options.items()}


def apply_defaults(
    choices: Choices, answers: Sequence[Answer], origins: Mapping[str, str]
) -> tuple[Choices, tuple[Decision, ...]]:
    """Choices with the defaults that plugins gave for options that the user left alone, and who set each option.

    Raises LaunchError if two plugins give different values, and for a name or value that isn't one.
    """
    said = _said(choices) | dict(origins)
    chosen = _merge(answers, said)
    updates: dict[str, dict[str, Any]] = {}
    for name, (value, _) in chosen.items():
        updates.setdefault(FLAT_NAMES[name], {})[name] = value
    groups = {group: getattr(choices, group).model_dump(exclude_unset=True) for group in Choices.model_fields}
    merged = {group: values | updates.get(group, {}) for group, values in groups.items()}
    resolved = validated(merged, {name: f"plugin {who}" for name, (_, who) in chosen.items()})
    by = {name: f"plugin {who}" for name, (_, who) in chosen.items()} | said
    decisions = (Decision(name, value, by.get(name, "default")) for name, value in resolved.public().items())
    return resolved, tuple(decisions)


def _said(choices: Choices) -> dict[str, str]:
    return {name: "user" for group in Choices.model_fields for name in getattr(choices, group).model_fields_set}


def _merge(answers: Sequence[Answer], said: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    """Option -> value and the distribution that gave it, without what the user said."""
    merged: dict[str, tuple[Any, str]] = {}
    for answer in answers:
        for name, value in answer.value.items():
            if FLAT_NAMES.get(name) not in OPEN_GROUPS or name in DECIDED:
                raise LaunchError(f"plugin {answer.distribution} gives a default to {name!r}, which takes none")
            other = merged.setdefault(name, (value, answer.distribution))
            if other[0] != value and name not in said:
                raise LaunchError(
                    f"plugins {other[1]} and {answer.distribution} differ on {name}: {other[0]!r} and {value!r}",
                    f"say which with --{name.replace('_', '-')}, or --disable-plugin one of them",
                )
    return {name: given for name, given in merged.items() if name not in said}


def validated(groups: Mapping[str, Mapping[str, Any]], origins: Mapping[str, str]) -> Choices:
    """Choices from grouped values. Raises LaunchError (exit code 2) that names the option and where it came from."""
    try:
        return Choices.model_validate(groups)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][1]) if len(first["loc"]) > 1 else "model_path"
        flag = f"--{name.replace('_', '-')}"
        if first["type"] == "missing":
            raise LaunchError("which model? none was given", "sgcore serve MODEL", exit_code=2) from error
        where = "" if origins.get(name, flag) == flag else f" ({origins[name]})"
        got = "" if name == "api_key" else f", got {first['input']!r}"
        raise LaunchError(f"{flag}{where}: {first['msg']}{got}", exit_code=2) from error
