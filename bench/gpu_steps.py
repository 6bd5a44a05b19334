"""Where the time of a decode step goes on an accelerator: host work, device work by kernel, and what is idle.

Random weights of a given shape, all rows in steady decode, in one process without a server. Needs a platform that
captures graphs; see README.md.
"""

from __future__ import annotations

import random
import sys
import time
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from harness import arguments, report
from offline import model_dir

from sgcore.api import Pending
from sgcore.config import Choices
from sgcore.engine.core import EngineCore
from sgcore.engine.messages import FromCore, Request, SamplingParams, ToCore
from sgcore.plugins.resolve import resolve

WARM_STEPS, TIMED_STEPS, PROFILED_STEPS = 60, 60, 12
TOP_KERNELS = 14
MOST_TOKENS = 640


class Nowhere:
    """A channel that nobody speaks through."""

    def receive(self, timeout_s: float) -> Sequence[ToCore]:
        return ()

    def send(self, message: FromCore) -> None:
        return None


class Clock:
    """Seconds spent in methods of objects, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, label: str) -> None:
        method = getattr(owner, name)

        def timed(*args: Any) -> Any:
            with self.part(label):
                result = method(*args)
            return Waiting(self, result) if label == "launch" else result

        setattr(owner, name, timed)

    @contextmanager
    def part(self, label: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[label] += time.perf_counter() - began


class Waiting(Pending):
    """A launched step whose wait is timed."""

    def __init__(self, clock: Clock, pending: Pending) -> None:
        self._clock, self._pending = clock, pending
        self.sample = pending.sample  # type: ignore[method-assign]

    def __call__(self) -> Any:
        with self._clock.part("wait"):
            return self._pending()


def open_core(model_path: str, **options: Any) -> EngineCore:
    """A core in this process, with random weights."""
    usual: dict[str, Any] = dict(
        load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", mem_fraction_static=0.85, context_length=12288
    )
    return EngineCore(resolve(Choices.of(model_path=model_path, **usual, **options)), Nowhere())


def fill(core: EngineCore, rows: int, tokens: int, prefix: int) -> None:
    """Requests that decode until they are aborted; `prefix` tokens are the same in groups of 32."""
    draw = random.Random(rows)
    shared = [[draw.randrange(100, 32000) for _ in range(prefix)] for _ in range(-(-rows // 32))]
    for row in range(rows):
        ids = shared[row // 32] + [draw.randrange(100, 32000) for _ in range(tokens - prefix)]
        core.handle(
            Request(f"r{row}", ids, SamplingParams(temperature=0.0, max_new_tokens=MOST_TOKENS, ignore_eos=True))
        )
    while len(core.scheduler.decoding) < rows or core.scheduler.prefilling:
        core.step()
    for _ in range(WARM_STEPS):
        core.step()


def measure(core: EngineCore, rows: int, tokens: int, prefix: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    fill(core, rows, tokens, prefix)
    torch.cuda.synchronize()
    clock = Clock()
    for owner, name in ((core.scheduler, "plan"), (core.runner, "launch"), (core.scheduler, "complete")):
        clock.watch(owner, name, name)
    began = time.perf_counter()
    for _ in range(TIMED_STEPS):
        core.step()
    wall = time.perf_counter() - began
    for owner, name in ((core.scheduler, "plan"), (core.runner, "launch"), (core.scheduler, "complete")):
        delattr(owner, name)
    per_step = {f"{label}_ms": 1e3 * s / TIMED_STEPS for label, s in clock.seconds.items()}
    kernels, idle = profile(core)
    core.scheduler.outputs.clear()
    for rid in list(core.scheduler.sequences):
        core.scheduler.abort(rid)
    while core._launched:
        core.step()
    core.scheduler.flush_cache()
    host = sum(per_step[f"{label}_ms"] for label in ("plan", "launch", "complete"))
    row = {"rows": rows, "tokens": tokens, "prefix": prefix, "step_ms": 1e3 * wall / TIMED_STEPS, "host_ms": host}
    return {**row, "idle_percent": idle, **per_step}, kernels


def profile(core: EngineCore) -> tuple[list[dict[str, Any]], float]:
    """Kernels by their time in a step, and the percentage of the time in which the device did nothing."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as taken:
        for _ in range(PROFILED_STEPS):
            core.step()
        torch.cuda.synchronize()
    events = sorted(
        (e for e in taken.events() if e.device_type == torch.autograd.DeviceType.CUDA), key=lambda e: e.time_range.start
    )
    spent, counts = Counter(), Counter()
    busy_until, idle = events[0].time_range.start, 0.0
    for event in events:
        spent[event.name] += event.time_range.elapsed_us()
        counts[event.name] += 1
        idle += max(0.0, event.time_range.start - busy_until)
        busy_until = max(busy_until, event.time_range.end)
    span = busy_until - events[0].time_range.start
    rows = [
        {
            "kernel": name[:70],
            "us_a_step": us / PROFILED_STEPS,
            "launches": counts[name] / PROFILED_STEPS,
            "us_each": us / counts[name],
        }
        for name, us in spent.most_common(TOP_KERNELS)
    ]
    return rows, 100.0 * idle / span


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--shape", default="llama8b", help="a shape of offline.py")
    parser.add_argument("--cases", default="1:600:0,64:600:0,256:850:0,256:2240:2048", help="ROWS:TOKENS:PREFIX,...")
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE of the engine; may be repeated")
    return parser.parse_args()


def main() -> int:
    asked = parse()
    core = open_core(model_dir(asked.shape), **dict(pair.split("=") for pair in asked.option))
    rows, tables = [], {}
    for case in asked.cases.split(","):
        row, kernels = measure(core, *map(int, case.split(":")))
        rows.append(row)
        tables[f"Kernels, {asked.shape} {case}"] = kernels
    report(f"gpu_steps_{asked.shape}", {f"Decode steps, {asked.shape}": rows, **tables}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
