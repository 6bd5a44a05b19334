"""`sgcore plugins list`, `sgcore plugins check` and `sgcore plugins new`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from sgcore.errors import LaunchError
from sgcore.plugins.installed import Entry, Installed


def command(words: Sequence[str]) -> App:
    """The commands under `sgcore plugins`."""
    app = App(name="plugins", help="List the installed plugins, check that each loads, or begin a new one.")
    app.command(list_plugins, name="list")
    app.command(check_plugins, name="check")
    app.command(new_plugin, name="new")
    return app


def list_plugins(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> int:
    """List every installed driver and hook plugin. Imports none of them.

    Parameters
    ----------
    as_json
        Print JSON for programs.
    """
    entries = Installed.read().entries
    if as_json:
        print(json.dumps([_row(entry) for entry in entries], indent=2))
        return 0
    table = [(kind_of(entry), entry.name, entry.provider, entry.requires or "any", _status(entry)) for entry in entries]
    print_table(("KIND", "NAME", "DISTRIBUTION", "SGCORE", "STATUS"), table)
    return 0


def check_plugins(*names: str, time_limit: float = 120.0) -> int:
    """Load each driver and hooks module in a process of its own; exit code 1 if any fails.

    Parameters
    ----------
    names
        Plugins or distributions to check; all of them if none is named.
    time_limit
        Seconds that one may take.
    """
    from sgcore.plugins.check import check_all

    failed = 0
    for entry, problem in check_all(_chosen(names), time_limit):
        failed += problem is not None
        what = f"{kind_of(entry)} {entry.name} ({entry.provider})"
        print(f"FAIL  {what}: {problem}" if problem else f"ok    {what}", flush=True)
    return 1 if failed else 0


def _chosen(names: Sequence[str]) -> list[Entry]:
    """The entries of these plugins or distributions. Raises LaunchError for a name that nothing has."""
    entries = Installed.read().entries
    for name in names:
        if not any(entry.is_called(name) for entry in entries):
            raise LaunchError(f"no installed plugin is called {name!r}", "`sgcore plugins list` shows them", 2)
    return [entry for entry in entries if not names or any(entry.is_called(name) for name in names)]


def new_plugin(kind: str, name: str, *, folder: Path = Path()) -> int:
    """Write a plugin that installs, is listed and passes its tests at once.

    Parameters
    ----------
    kind
        model, platform, attention, quant or primitive.
    name
        Lower-case letters, digits and hyphens; the distribution will be sgcore-NAME.
    folder
        Where the plugin's own folder is made.
    """
    from sgcore.scaffold import write_plugin

    written = write_plugin(kind, name, folder)
    print(f"wrote {written}; next:\n  cd {written}\n  pip install -e '.[test]'\n  pytest")
    return 0


def kind_of(entry: Entry) -> str:
    """The kind of driver, or `hooks`."""
    from sgcore.plugins.drivers import KINDS
    from sgcore.plugins.installed import HOOK_GROUP

    kinds = {kind.group: kind.name for kind in KINDS.values()} | {HOOK_GROUP: "hooks"}
    return kinds.get(entry.group, entry.group)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print left-aligned columns."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(entry: Entry) -> dict[str, object]:
    return {
        "kind": kind_of(entry),
        "group": entry.group,
        "name": entry.name,
        "target": entry.target,
        "distribution": entry.distribution,
        "version": entry.version,
        "requires_sgcore": entry.requires,
        "compatible": entry.is_compatible,
    }


def _status(entry: Entry) -> str:
    return "ok" if entry.is_compatible else "not for this sgcore"
