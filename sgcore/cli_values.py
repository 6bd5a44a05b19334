"""Option values in layers: configuration file under environment under flags."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgcore.config import FLAT_NAMES, Choices
from sgcore.errors import LaunchError
from sgcore.plugins.settings import PluginOptionParser, validated

MANY = ("prefer", "disable_plugin", "route_plugin")
"""Options that take several values; one string is split at commas."""


class Layers:
    """Values and who said them; a later layer wins."""

    def __init__(self, parser: PluginOptionParser) -> None:
        self.origins: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        self._plugin_names = set(parser.options)

    def add(self, values: Mapping[str, Any], origin: str, dash: str) -> None:
        """Put one layer on top. `origin` is a format with `{name}`. Raises LaunchError for an unknown name."""
        for said, value in values.items():
            name = said.replace("-", "_")
            origin_text = origin.format(name=name.replace("_", dash))
            if name not in FLAT_NAMES and name not in self._plugin_names:
                raise self._unknown(name, origin_text)
            self._values[name] = value.split(",") if name in MANY and isinstance(value, str) else value
            self.origins[name] = origin_text

    def add_environment(self) -> None:
        """Put `SGCORE_*` on top; unknown names are ignored, since other tools of ours read some."""
        known = set(FLAT_NAMES) | self._plugin_names
        said = {key[7:].lower(): value for key, value in os.environ.items() if key.startswith("SGCORE_")}
        for name in sorted(known & set(said)):
            self.add({name: said[name]}, f"SGCORE_{name.upper()}", "_")

    def choices(self) -> Choices:
        """What was said, checked. Raises LaunchError (exit code 2) for a bad value."""
        groups: dict[str, dict[str, Any]] = {"model": {}}
        for name, value in self._values.items():
            if name in self._plugin_names:
                groups.setdefault("plugins", {}).setdefault("plugin_options", {})[name] = value
            else:
                groups.setdefault(FLAT_NAMES[name], {})[name] = value
        return validated(groups, self.origins)

    def _unknown(self, name: str, origin: str) -> LaunchError:
        close = difflib.get_close_matches(name, [*FLAT_NAMES, *self._plugin_names], 1)
        hint = f"did you mean {close[0]}?" if close else "see `sgcore serve --help`"
        return LaunchError(f"unknown option ({origin})", hint, exit_code=2)


def read_config(path: Path) -> dict[str, Any]:
    """A flat mapping from a YAML, TOML or JSON file. Raises LaunchError (exit code 2) for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
        values = _parse(text, path.suffix.lower())
    except OSError as error:
        raise LaunchError(f"--config {path}: {error.strerror}", exit_code=2) from error
    except ValueError as error:
        raise LaunchError(f"--config {path}: {' '.join(str(error).split())}", exit_code=2) from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise LaunchError(f"--config {path}: not a mapping of option names to values", exit_code=2)
    return values


def _parse(text: str, suffix: str) -> Any:
    if suffix == ".json":
        return json.loads(text)
    if suffix == ".toml":
        import tomllib

        return tomllib.loads(text)
    if suffix in (".yaml", ".yml"):
        import yaml

        try:
            return yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    raise ValueError(f"unknown ending {suffix!r}; use .yaml, .toml or .json")
