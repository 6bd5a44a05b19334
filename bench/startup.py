"""How long it takes until something happens: the server's start, its first token, the command line, the imports."""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from engines import SGCore, forms
from export_sample import exported
from harness import OUT, OtherWork, arguments, median, report, wait_idle

from sgcore.benchmark.client import Work

IMPORTS = ("sgcore", "sgcore.cli", "sgcore.engine.engine", "sgcore.engine.core", "torch", "transformers")
PROMPT = Work("The capital of France is", 5, 8)


def engines(asked: Namespace) -> list[SGCore]:
    """A model that was named, or the sample in every form."""
    if asked.model is not None:
        return [SGCore(asked.model, asked.sgcore_args, asked.model.name)]
    return forms(exported(), asked.sgcore_args)


def served(engine: SGCore, asked: Namespace) -> dict[str, Any]:
    """Seconds from a warm start of `sgcore serve` to a healthy answer and to the first streamed token."""
    ready, first, others = [], [], []
    engine.start()
    engine.close()
    for _ in range(asked.repeats):
        wait_idle(asked.idle_wait)
        with OtherWork() as other:
            try:
                ready.append(engine.start())
                (reply,) = engine.ask([PROMPT])
                first.append(ready[-1] + reply.ttft_s)
            finally:
                engine.close()
        others.append(other.percent)
    row = {"engine": engine.name, "runs": asked.repeats, "ready_s": median(ready), "first_token_s": median(first)}
    return row | {"slowest_ready_s": max(ready), "most_other_cpu_percent": max(others)}


def timed(command: list[str], runs: int) -> float:
    """Median seconds of a fresh process."""
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return median(seconds) or 0.0


def modules(statement: str) -> int:
    """How many modules a statement imports, those of a bare interpreter included."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True)
    return sum(line.startswith("import time:") for line in done.stderr.splitlines()) - 1


def imported(runs: int) -> list[dict[str, Any]]:
    """Wall time of a fresh interpreter for each import, and of `sgcore --help`."""
    bare = timed([sys.executable, "-c", "pass"], runs)
    rows = [{"what": "python -c pass", "wall_s": bare, "above_python_s": 0.0, "modules": modules("pass")}]
    program = str(Path(sys.executable).with_name("sgcore"))
    commands = {f"sgcore {' '.join(words)}": [program, *words] for words in (["--help"], ["serve", "--help"])}
    for name, command in commands.items():
        wall = timed(command, runs)
        rows.append({"what": name, "wall_s": wall, "above_python_s": wall - bare, "modules": None})
    for name in IMPORTS:
        wall = timed([sys.executable, "-c", f"import {name}"], runs)
        count = modules(f"import {name}")
        rows.append({"what": f"import {name}", "wall_s": wall, "above_python_s": wall - bare, "modules": count})
    return rows


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, help="by default, the sample: in float32, int8, int4 and as its own file")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--idle-wait", type=float, default=60.0, help="seconds to wait for an idle machine")
    parser.add_argument("--sgcore-args", default="--dtype float32", help="further flags of `sgcore serve`")
    asked = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    servers = [served(engine, asked) for engine in engines(asked)]
    tables = {"Server": servers, "Fresh processes": imported(asked.repeats)}
    report("startup", tables, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
