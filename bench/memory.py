"""What the resident memory of `sgcore serve` is: each of its processes by kinds of pages, ready and after work."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
from cpu import Words, decode_alone, first_token
from engines import SGCore
from export_sample import exported
from harness import OUT, arguments, report, tree

WEIGHTS = (".safetensors", ".gguf")
KINDS = {
    "weights_file": "pages of files of weights",
    "torch_files": "pages of torch's libraries as they are in their files",
    "other_files": "those of other libraries",
    "written_data": "pages of libraries that were written to",
    "heap": "what is allocated in small pieces",
    "anonymous": "larger pieces: weights, keys and values, Python's own heap",
}


def pages(process: psutil.Process) -> dict[str, float]:
    """Resident megabytes of each kind."""
    found: dict[str, float] = defaultdict(float)
    for area in process.memory_maps(grouped=False):
        is_file = area.path.startswith("/")
        kind = "heap" if area.path == "[heap]" else file_kind(area.path) if is_file else "anonymous"
        written = area.anonymous if is_file else 0
        found[kind] += (area.rss - written) / 1e6
        found["written_data"] += written / 1e6
    return {kind: found[kind] for kind in KINDS}


def peak_mb(process: psutil.Process) -> float:
    """The most that has been resident since the process began."""
    (line,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return int(line) * 1024 / 1e6


def file_kind(path: str) -> str:
    if path.endswith(WEIGHTS):
        return "weights_file"
    return "torch_files" if "torch" in Path(path).parts else "other_files"


def rows(pid: int, when: str) -> list[dict[str, Any]]:
    """A row for each process, and their sum."""
    found = []
    for number, process in enumerate(tree(pid)):
        taken = pages(process)
        name, size = "core" if number else "server", sum(taken.values())
        found.append({"when": when, "process": name, "all": size, "own_peak": peak_mb(process)} | taken)
    return [*found, {"when": when, "process": "both"} | {kind: sum(r[kind] for r in found) for kind in ("all", *KINDS)}]


def imports() -> list[dict[str, Any]]:
    """The same for a bare interpreter, and for one that has imported torch alone."""
    found = []
    for statement in ("pass", "import numpy", "import torch"):
        child = psutil.Popen([sys.executable, "-c", f"{statement}; print(flush=True); input()"], stdin=-1, stdout=-1)
        child.stdout.readline()
        taken = pages(child)
        child.communicate(b"\n")
        found.append({"what": statement, "all": sum(taken.values())} | taken)
    return found


def served(asked: Namespace) -> list[dict[str, Any]]:
    """Ready, after a request of 16 tokens, and after one of 512."""
    engine = SGCore(asked.model or exported(), asked.sgcore_args)
    try:
        engine.start()
        found = rows(engine.pid, "ready")
        for measure, name in ((decode_alone, "16 tokens in, 64 out"), (first_token, "then 512 in, 4 out")):
            measure(engine, Words(asked.model or exported(), name))
            found += rows(engine.pid, name)
        return found
    finally:
        engine.close()


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, help="the exported sample by default")
    parser.add_argument("--sgcore-args", default="--dtype float32 --quantization int4", help="flags of `sgcore serve`")
    asked = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    tables = {"Resident memory, MB": served(asked), "Of fresh processes": imports()}
    report("memory", tables, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
