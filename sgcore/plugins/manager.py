"""The hook plugins that take part, and those that don't and why."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from pluggy import HookImpl, PluginManager

from sgcore import hookspecs
from sgcore.config import PluginOptions
from sgcore.errors import LaunchError
from sgcore.plugins.installed import HOOK_GROUP, Entry, Installed
from sgcore.plugins.patience import patience


class PluginRefused(Exception):
    """A hooks module that breaks a rule."""


@dataclass(frozen=True)
class Disabled:
    """A hook plugin that takes no part."""

    name: str
    distribution: str
    reason: str


@dataclass(frozen=True)
class Answer:
    """One plugin's answer to a hook."""

    plugin: str
    distribution: str
    value: Any


class Hooks:
    """Asks hooks. A plugin that fails is disabled and the others still answer, unless `strict`."""

    def __init__(self, strict: bool = False) -> None:
        self.disabled: list[Disabled] = []
        self._strict = strict
        self._entries: dict[str, Entry] = {}
        self._manager = PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)

    @property
    def active(self) -> tuple[Entry, ...]:
        """The plugins that take part, by name."""
        return tuple(reversed(self._entries.values()))

    def add(self, entry: Entry) -> None:
        """Import one hooks module and register it, or list it as disabled."""
        if not entry.is_compatible:
            self.disabled.append(Disabled(entry.name, entry.distribution, entry.mismatch))
            return
        key = f"{entry.distribution}/{entry.name}"
        try:
            with patience(f"plugin {entry.name} ({entry.provider})", f"--disable-plugin {entry.name} leaves it out"):
                module = import_module(entry.target)
            self._register(module, key)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail(key, entry, "", error)
        else:
            self._entries[key] = entry

    def all(self, hook: str, only: Sequence[str] | None = None, /, **arguments: Any) -> list[Answer]:
        """Every answer that is not None, in order of entry point name. `only`: the plugins or distributions to ask."""
        return list(self._answers(hook, only, arguments))

    def first(self, hook: str, /, **arguments: Any) -> Answer | None:
        """The first answer that is not None; plugins after it are not asked."""
        return next(self._answers(hook, None, arguments), None)

    def _answers(self, hook: str, only: Sequence[str] | None, arguments: dict[str, Any]) -> Iterator[Answer]:
        implementations: list[HookImpl] = getattr(self._manager.hook, hook).get_hookimpls()
        for implementation in reversed(implementations):
            key = implementation.plugin_name
            entry = self._entries.get(key)
            if entry is None or (only is not None and not any(map(entry.is_called, only))):
                continue
            try:
                value = implementation.function(*(arguments[name] for name in implementation.argnames))
            except Exception as error:
                self._fail(key, entry, f"{hook} raised ", error)
                continue
            if value is not None:
                yield Answer(entry.name, entry.distribution, value)

    def _register(self, module: ModuleType, key: str) -> None:
        for name, function in inspect.getmembers(module, inspect.isroutine):
            options = self._manager.parse_hookimpl_opts(module, name)
            if options is None and name in vars(hookspecs):
                raise PluginRefused(f"{name} is not marked with @hookimpl")
            if options is not None and (options["hookwrapper"] or options["wrapper"]):
                raise PluginRefused(f"{name} is a hook wrapper; wrappers are refused")
            if options is not None and not hasattr(self._manager.hook, options["specname"] or name):
                raise PluginRefused(f"unknown hook {options['specname'] or name} ({function.__module__})")
        self._manager.register(module, name=key)

    def _fail(self, key: str, entry: Entry, what: str, error: BaseException) -> None:
        if self._strict:
            raise error
        if self._manager.has_plugin(key):
            self._manager.unregister(name=key)
        self._entries.pop(key, None)
        reason = str(error) if isinstance(error, PluginRefused) else f"{what}{type(error).__name__}: {error}"
        reason = "; ".join(reason.splitlines())
        self.disabled.append(Disabled(entry.name, entry.distribution, reason))


def load_hooks(options: PluginOptions | None = None, installed: Installed | None = None) -> Hooks:
    """Import the hooks module of every installed plugin that the options don't disable.

    Raises LaunchError for a `--disable-plugin` that nothing has; a plugin's own error if `strict_plugins`.
    """
    options = options or PluginOptions()
    entries = (installed or Installed.read()).group(HOOK_GROUP)
    for name in options.disable_plugin:
        if not any(entry.is_called(name) for entry in entries):
            raise LaunchError(f"--disable-plugin {name}: no such plugin", "`sgcore plugins list` shows them", 2)
    hooks = Hooks(options.strict_plugins)
    for entry in reversed(entries):
        if any(entry.is_called(name) for name in options.disable_plugin):
            hooks.disabled.append(Disabled(entry.name, entry.distribution, "--disable-plugin"))
        else:
            hooks.add(entry)
    return hooks
