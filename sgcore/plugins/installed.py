"""What the installed distributions say they provide, read from metadata; nothing here imports a plugin."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from sgcore import __version__

CORE = "sgcore"
HOOK_GROUP = "sgcore.plugins"


@dataclass(frozen=True)
class Entry:
    """One entry point of a group that starts with `sgcore.`."""

    group: str
    name: str
    target: str
    """`module:attribute`, or `module` for a hook plugin."""
    distribution: str
    version: str
    requires: str
    """The version of sgcore that the distribution asks for, as a specifier; empty: any."""
    is_compatible: bool

    @property
    def provider(self) -> str:
        return f"{self.distribution} {self.version}"

    def is_called(self, name: str) -> bool:
        """Whether this is the entry's name, or its distribution's."""
        return name == self.name or canonicalize_name(name) == canonicalize_name(self.distribution)

    @property
    def mismatch(self) -> str:
        """Why this entry can't take part, in words."""
        return f"{self.provider} needs sgcore{self.requires}, this is sgcore {__version__}"


@dataclass(frozen=True)
class Installed:
    """All entries, sorted by group, name and distribution."""

    entries: tuple[Entry, ...]

    @classmethod
    def read(cls) -> Installed:
        """Read the metadata of every distribution on `sys.path`; the first of two with one name counts."""
        found: dict[str, Distribution] = {}
        for distribution in distributions():
            name = distribution.metadata["Name"] if _has_entries(distribution) else None
            if name:
                found.setdefault(canonicalize_name(name), distribution)
        entries = [entry for distribution in found.values() for entry in _entries(distribution)]
        return cls(tuple(sorted(entries, key=lambda entry: (entry.group, entry.name, entry.distribution))))

    def group(self, group: str) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.group == group)

    def names(self, group: str) -> list[str]:
        """The names that compatible distributions provide, sorted and without repeats."""
        return sorted({entry.name for entry in self.group(group) if entry.is_compatible})


def _is_ours(point: EntryPoint) -> bool:
    return point.group.startswith(f"{CORE}.")


def _has_entries(distribution: Distribution) -> bool:
    return any(_is_ours(point) for point in distribution.entry_points)


def _entries(distribution: Distribution) -> Iterable[Entry]:
    name, version = distribution.metadata["Name"], distribution.version
    requires = _requires_core(distribution.requires or ())
    is_compatible = canonicalize_name(name) == CORE or requires.contains(__version__, prereleases=True)
    for point in distribution.entry_points:
        if _is_ours(point):
            yield Entry(point.group, point.name, point.value, name, version, str(requires), is_compatible)


def _requires_core(requirements: Iterable[str]) -> SpecifierSet:
    """Every `Requires-Dist: sgcore...` that applies here, joined."""
    joined = SpecifierSet()
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if canonicalize_name(requirement.name) == CORE and applies:
            joined &= requirement.specifier
    return joined
