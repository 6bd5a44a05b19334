"""Writes the skeleton of a plugin: a package that installs, is listed and passes the suite that its tests inherit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from sgcore import __version__
from sgcore.errors import LaunchError

KINDS = ("model", "platform", "attention", "quant", "primitive")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Names:
    """What a plugin called `my-model` is called elsewhere."""

    name: str
    """my-model"""

    @property
    def distribution(self) -> str:
        """sgcore-my-model"""
        return f"sgcore-{self.name}"

    @property
    def package(self) -> str:
        """sgcore_my_model"""
        return self.distribution.replace("-", "_")

    @property
    def word(self) -> str:
        """my_model"""
        return self.name.replace("-", "_")

    @property
    def title(self) -> str:
        """MyModel"""
        return "".join(part.capitalize() for part in self.name.split("-"))


def write_plugin(kind: str, name: str, parent: Path) -> Path:
    """Write a plugin of a kind into `parent`/sgcore-NAME, a folder that must not exist. Raises LaunchError."""
    if kind not in KINDS:
        raise LaunchError(f"there is no kind {kind!r} of plugin", f"one of {', '.join(KINDS)}")
    if not NAME.fullmatch(name):
        raise LaunchError(
            f"{name!r} is no name for a plugin", "lower-case letters, digits and single hyphens: my-model"
        )
    names = Names(name)
    folder = parent / names.distribution
    if folder.exists():
        raise LaunchError(f"{folder} exists", "choose another name, or remove it")
    environment = Environment(
        loader=PackageLoader(__name__), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    for template in environment.list_templates(filter_func=lambda path: path.split("/")[0] in ("common", kind)):
        relative = template.partition("/")[2].removesuffix(".j2")
        path = folder / relative.replace("PACKAGE", names.package).replace("WORD", names.word)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(environment.get_template(template).render(names=names, kind=kind, version=_range()))
    return folder


def _range() -> str:
    """The sgcore that this one's plugins are for: `>=0.1,<0.2`."""
    major, minor = __version__.split(".")[:2]
    return f">={major}.{minor},<{major}.{int(minor) + 1}" if major == "0" else f">={major}.{minor},<{int(major) + 1}"
