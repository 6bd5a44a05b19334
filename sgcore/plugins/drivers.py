"""Kinds of driver, and the way from a known name to exactly one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

from packaging.utils import canonicalize_name
from stevedore.driver import DriverManager
from stevedore.exception import NoMatches
from stevedore.extension import Extension

from sgcore.errors import LaunchError
from sgcore.plugins import packages
from sgcore.plugins.installed import Entry, Installed
from sgcore.plugins.patience import patience
from sgcore.plugins.plan import Driver


@dataclass(frozen=True)
class Kind:
    """A kind of driver: one row here, one class in `sgcore.api`, one conformance suite."""

    name: str
    group: str
    chosen_by: str
    contract: str
    """Name of the class in `sgcore.api`."""


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("model", "sgcore.models", "`architectures[0]` of `config.json`", "Model"),
        Kind("platform", "sgcore.platforms", "`--platform`", "Platform"),
        Kind("attention", "sgcore.attention", "`--attention-backend`", "AttentionBackend"),
        Kind("quantization", "sgcore.quantization", "`quant_method` or `--quantization`", "QuantScheme"),
        Kind("weights", "sgcore.weights", "`--load-format`", "WeightSource"),
        Kind("parser", "sgcore.parsers", "`--tool-call-parser` or `--reasoning-parser`", "ResponseFormat"),
        Kind("grammar", "sgcore.grammars", "`--grammar-backend`", "GrammarBackend"),
        Kind("primitive", "sgcore.primitives", "the word, as in `s += word(...)`", "Primitive"),
    )
}


class _Described(EntryPoint):
    """An entry point whose `load` describes the driver and imports nothing."""

    def __init__(self, kind: Kind, entry: Entry) -> None:
        super().__init__(entry.name, entry.target, entry.group)
        vars(self).update(
            driver=Driver(kind.name, entry.name, entry.target, entry.distribution, entry.version),
        )

    def load(self) -> Any:
        return vars(self)["driver"]


class _Lookup(DriverManager[Any]):
    """stevedore's driver pattern over `Installed`, without its entry point cache, which loses the distribution."""

    def __init__(self, kind: Kind, name: str, installed: Installed, prefer: Sequence[str]) -> None:
        self._kind = kind
        self._entries = [entry for entry in installed.group(kind.group) if entry.name == name]
        self._prefer = prefer
        super().__init__(
            kind.group, name, on_missing_entrypoints_callback=None, conflict_resolver=self._resolve_conflict
        )

    def list_entry_points(self) -> list[EntryPoint]:
        return [_Described(self._kind, entry) for entry in self._entries if entry.is_compatible]

    def _resolve_conflict(self, namespace: str, name: str, found: list[Extension[Any]]) -> Extension[Any]:
        wanted = preferred(self._prefer, name)
        for extension in found:
            driver: Driver = vars(extension.entry_point)["driver"]
            if wanted is not None and canonicalize_name(driver.distribution) == wanted:
                return extension
        owners = [vars(extension.entry_point)["driver"].distribution for extension in found]
        raise LaunchError(
            f"{self._kind.name} {name!r} is provided by {' and '.join(owners)}",
            f"choose with --prefer {name}={owners[0]}, or uninstall the other",
        )


def preferred(prefer: Sequence[str], name: str) -> str | None:
    """The distribution that `--prefer NAME=DISTRIBUTION` names for `name`, normalised; the last one said counts."""
    found = None
    for text in prefer:
        key, equals, distribution = text.partition("=")
        if not (key and equals and distribution):
            raise LaunchError(f"--prefer {text!r} is not NAME=DISTRIBUTION", exit_code=2)
        if key == name:
            found = str(canonicalize_name(distribution))
    return found


def find(kind: str, name: str, installed: Installed, prefer: Sequence[str] = ()) -> Driver:
    """The one driver of this kind and name, not imported.

    Raises LaunchError if nobody provides it, if only distributions for another sgcore do, or if two do and `prefer`
    names neither.
    """
    row = KINDS[kind]
    try:
        lookup = _Lookup(row, name, installed, prefer)
    except NoMatches as error:
        raise missing(kind, name, installed) from error
    driver: Driver = vars(lookup.extensions[0].entry_point)["driver"]
    return driver


def is_offered(kind: str, name: str, installed: Installed) -> bool:
    """Whether a distribution provides this name, be it for another sgcore."""
    return any(entry.name == name for entry in installed.group(KINDS[kind].group))


def missing(kind: str, name: str, installed: Installed) -> LaunchError:
    """The error for a name that nobody provides for this sgcore."""
    row = KINDS[kind]
    for entry in installed.group(row.group):
        if entry.name == name:
            return LaunchError(f"{kind} {name!r}: {entry.mismatch}", f"install another {entry.distribution}")
    known = ", ".join(installed.names(row.group)) or "none"
    return LaunchError(
        f"no installed plugin provides the {kind} {name!r}; installed: {known}",
        f"{packages.mend(row.group, name)}; `sgcore plugins list` shows what is there",
    )


def load(driver: Driver) -> Any:
    """Import the driver's class, or its record where the kind is plain data.

    Raises LaunchError with the driver's own error as its text and cause, or if the target is none of its kind.
    """
    import sgcore.api

    contract = getattr(sgcore.api, KINDS[driver.kind].contract)
    label = f"{driver.kind} {driver.name!r} ({driver.distribution} {driver.version})"
    try:
        with patience(label, "`sgcore plugins check` loads each plugin alone"):
            loaded = driver.load()
    except (Exception, SystemExit) as error:
        raise LaunchError(f"{label} does not load: {type(error).__name__}: {error}", _mend(error)) from error
    wanted = "instance" if dataclasses.is_dataclass(contract) else "subclass"
    is_right = isinstance(loaded, contract) if wanted == "instance" else _is_class_of(loaded, contract)
    if not is_right:
        raise LaunchError(f"{label}: {driver.target} is no {wanted} of sgcore.api.{contract.__name__}")
    return loaded


def _is_class_of(loaded: Any, contract: type) -> bool:
    """Whether it is a class, and derives from the contract."""
    return isinstance(loaded, type) and issubclass(loaded, contract)


def _mend(error: BaseException) -> str:
    return packages.missing_module(error) if isinstance(error, ImportError) else "--debug shows where"
