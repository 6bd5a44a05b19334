"""Loads plugins in processes of their own: `python -m sgcore.plugins.check GROUP NAME DISTRIBUTION` loads one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from sgcore.errors import LaunchError
from sgcore.plugins import drivers
from sgcore.plugins.installed import HOOK_GROUP, Entry, Installed
from sgcore.plugins.manager import Hooks

AT_ONCE = 4
"""Processes at a time: most of them import torch, which takes about a second and 200 MB."""


def check_all(entries: Iterable[Entry], limit_s: float) -> Iterator[tuple[Entry, str | None]]:
    """Each entry with what is wrong with it, or None, in order."""
    listed = tuple(entries)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from zip(listed, pool.map(lambda entry: check_one(entry, limit_s), listed), strict=True)


def check_one(entry: Entry, limit_s: float) -> str | None:
    """Load one entry in a new process, for at most `limit_s` seconds; returns what is wrong, or None."""
    if not entry.is_compatible:
        return entry.mismatch
    command = [sys.executable, "-m", "sgcore.plugins.check", entry.group, entry.name, entry.distribution]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        _, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"did not load within {limit_s:g} s"
    except BaseException:  # Ctrl-C, which a process of another session doesn't get
        process.kill()
        raise
    return _problem(process.returncode, errors)


def _problem(exit_code: int, errors: str) -> str | None:
    """What a process has said last, or what ended it."""
    if exit_code < 0:
        return f"the process was ended by {signal.Signals(-exit_code).name}"
    lines = errors.strip().splitlines() or [f"exit code {exit_code}"]
    return lines[-1] if exit_code else None


def load_entry(group: str, name: str, distribution: str) -> None:
    """Load one entry in this process. Raises LaunchError, or whatever a hooks module raises."""
    installed = Installed(
        tuple(
            entry for entry in Installed.read().group(group) if (entry.name, entry.distribution) == (name, distribution)
        )
    )
    if not installed.entries:
        raise LaunchError(f"{distribution} provides no {name!r} in {group}")
    if group == HOOK_GROUP:
        Hooks(strict=True).add(installed.entries[0])
        return
    for kind in drivers.KINDS.values():
        if kind.group == group:
            drivers.load(drivers.find(kind.name, name, installed))


if __name__ == "__main__":
    try:
        load_entry(*sys.argv[1:])
    except (Exception, SystemExit) as error:
        prefix = "" if isinstance(error, LaunchError) else f"{type(error).__name__}: "
        sys.exit(f"{prefix}{error}")
