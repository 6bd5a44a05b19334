"""What the scripts of this folder share: tables, records, the machine, and what else runs on it."""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

OUT = Path(__file__).parent / "out"
"""Where records and the exported model go; not part of the repository."""
IDLE_PERCENT = 10.0
SAMPLE_S = 0.5
SIMD = ("avx512f", "avx2", "asimd")

Row = Mapping[str, Any]


def arguments(doc: str | None) -> ArgumentParser:
    """A parser that has the option of every script, `--output`."""
    parser = ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, help="JSON file; out/SCRIPT.json in this folder by default")
    return parser


def report(name: str, tables: Mapping[str, Sequence[Row]], output: Path | None = None, **more: Any) -> None:
    """Print each table in Markdown and write all of them, with the machine, to one JSON file."""
    described = machine()
    print(f"machine: {', '.join(f'{key} {value}' for key, value in described.items())}")
    for title, rows in tables.items():
        print(f"\n{title}\n\n{markdown(rows)}")
    path = output or OUT / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"script": name, "machine": described, **more, "tables": tables}, indent=1) + "\n")
    print(f"\nwritten to {path}")


def markdown(rows: Sequence[Row]) -> str:
    """Rows with the same or overlapping keys as a Markdown table."""
    if not rows:
        return "(nothing measured)"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(key)) for key in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def machine() -> dict[str, Any]:
    """What decides speed, in general words."""
    return {
        "cores": os.cpu_count(),
        "simd": _simd(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "torch": installed_version("torch"),
    }


def _simd() -> str:
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return next((name for name in SIMD if name in flags), platform.machine())


def installed_version(distribution: str) -> str | None:
    """Its version; None: not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def median(values: Iterable[float]) -> float | None:
    """The median; None of nothing."""
    known = list(values)
    return statistics.median(known) if known else None


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class OtherWork:
    """What processes outside this one's tree used meanwhile; `percent` of one core, once the block has ended."""

    percent = 0.0

    def __enter__(self) -> OtherWork:
        self._before, self._began = _cpu_seconds(), time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        used = sum(now - self._before.get(pid, 0.0) for pid, now in _cpu_seconds().items())
        self.percent = max(0.0, 100.0 * used / (time.monotonic() - self._began))
        if self.percent >= IDLE_PERCENT:
            print(f"NOT ALONE: other processes used {self.percent:.0f} % of a core; not to be trusted", flush=True)


def wait_idle(limit_s: float = 60.0) -> None:
    """Wait until all other processes together use less than `IDLE_PERCENT` of one core over a second, or give up."""
    deadline = time.monotonic() + limit_s
    while _busy_percent() >= IDLE_PERCENT and time.monotonic() < deadline:
        time.sleep(1.0)


def _busy_percent() -> float:
    before, began = _cpu_seconds(), time.monotonic()
    time.sleep(1.0)
    used = sum(now - before.get(pid, 0.0) for pid, now in _cpu_seconds().items())
    return 100.0 * used / (time.monotonic() - began)


def _cpu_seconds() -> dict[int, float]:
    mine = {process.pid for process in tree()}
    found = {}
    for process in psutil.process_iter(["cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None and process.pid not in mine:
            found[process.pid] = times.user + times.system
    return found


def tree(pid: int | None = None) -> list[psutil.Process]:
    """A process (this one by default) and everything that it started."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class PeakMemory:
    """Samples the resident memory of a process tree twice a second, summed; pages that two share count twice."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.peak_bytes = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()

    @property
    def peak_mb(self) -> float:
        return self.peak_bytes / 1e6

    def _watch(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, sum(_resident(process) for process in tree(self.pid)))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
