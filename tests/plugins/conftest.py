"""Distributions made up for a test: a folder of `.dist-info` and modules on `sys.path`."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from sgcore.config import PluginOptions
from sgcore.plugins.installed import Installed
from sgcore.plugins.manager import Hooks, load_hooks


class Site:
    """A folder on `sys.path` that distributions are written into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: set[str] = set()
        self._names: set[str] = set()

    def install(
        self,
        name: str,
        points: Mapping[str, Mapping[str, str]],
        requires: Sequence[str] = (),
        modules: Mapping[str, str] | None = None,
        version: str = "1.0",
    ) -> None:
        """Write one distribution: entry points by group and name, requirements, and module sources."""
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        groups = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in rows.items()) for group, rows in points.items()]
        (info / "entry_points.txt").write_text("\n".join(groups))
        for module, source in (modules or {}).items():
            (self.folder / f"{module}.py").write_text(textwrap.dedent(source))
            self.modules.add(module)
        self._names.add(name)
        importlib.invalidate_caches()

    def plugin(self, name: str, source: str, requires: Sequence[str] = ()) -> None:
        """A distribution `name` with one hook plugin of the same name."""
        module = name.replace("-", "_")
        source = "from sgcore.hookspecs import hookimpl\n" + textwrap.dedent(source)
        self.install(name, {"sgcore.plugins": {name: module}}, requires, {module: source})

    def installed(self) -> Installed:
        """What the distributions of this folder provide, and no other."""
        return Installed(tuple(entry for entry in Installed.read().entries if entry.distribution in self._names))

    def hooks(self, **options: object) -> Hooks:
        return load_hooks(PluginOptions.model_validate(options), self.installed())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    made = Site(folder)
    yield made
    for module in made.modules:
        sys.modules.pop(module, None)
