"""Which package of this project has what isn't installed. Only the texts of errors depend on it.

`packages.json` is written by `make docs` from the metadata of the packages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from sgcore.errors import LaunchError
from sgcore.weights.settings import read_json

ENGINE_MODULES = ("torch", "transformers", "safetensors")
"""What the extra `engine` brings."""
ENGINE = "pip install 'sgcore[engine]'"
BUG = "this is a bug in sgcore or in a plugin; --debug shows where"


@cache
def index() -> dict[str, dict[str, Any]]:
    """Package -> `about`, the `hooks` that it answers, and its names in each entry point group."""
    found: dict[str, dict[str, Any]] = json.loads(resources.files(__package__).joinpath("packages.json").read_text())
    return found


def with_name(group: str, name: str) -> list[str]:
    """The packages that offer a driver."""
    return [package for package, about in index().items() if name in about.get(group, ())]


def with_hook(hook: str) -> list[str]:
    """The packages that answer a hook."""
    return [package for package, about in index().items() if hook in about["hooks"]]


def install(packages: Iterable[str]) -> str:
    """The command that installs packages."""
    return f"pip install {' '.join(dict.fromkeys(packages))}"


def mend(group: str, name: str) -> str:
    """What to do about a driver that nothing installed offers."""
    found = [install([package]) for package in with_name(group, name)]
    if group == "sgcore.models":
        general = " or ".join(install([package]) for package in with_hook("sgcore_fall_back"))
        found.append(f"{'or' if found else 'install the plugin that has it, or'} for any architecture, {general}")
    return ", ".join(found) or "install the plugin that has it"


def platforms() -> str:
    """What to do where no platform is installed."""
    described = (f"{package} ({index()[package]['about']})" for package in with_hook("sgcore_offer_platform"))
    return f"pip install one of {', '.join(described)}"


def nothing_computes(path: Path) -> LaunchError:
    """The error of an installation without a platform: all that a model needs, as far as it can be looked at."""
    config = _config(path)
    needed = _of_model(config.get("architectures"))
    method = (config.get("quantization_config") or {}).get("quant_method")
    needed += with_name("sgcore.quantization", str(method))
    needed += with_name("sgcore.weights", path.suffix.removeprefix("."))
    return LaunchError("no platform is installed, so nothing computes", f"{platforms()}; and {install(needed)}")


def _of_model(architectures: Sequence[str] | None) -> list[str]:
    own = [package for name in (architectures or ())[:1] for package in with_name("sgcore.models", str(name))]
    return own or with_hook("sgcore_fall_back")


def _config(path: Path) -> dict[str, Any]:
    try:
        return read_json(path / "config.json")
    except LaunchError:
        return {}


def unexpected(error: Exception) -> LaunchError:
    """An error that nobody foresaw, in our words: a dependency that is missing, or a bug."""
    if isinstance(error, ModuleNotFoundError):
        return LaunchError(f"{error}", missing_module(error))
    return LaunchError(f"{type(error).__name__}: {error}", BUG)


def missing_module(error: ImportError) -> str:
    """What to do about an import that failed."""
    missing = (error.name or "").partition(".")[0]
    return ENGINE if missing in ENGINE_MODULES else "is a dependency missing? `sgcore plugins check` loads each plugin"
