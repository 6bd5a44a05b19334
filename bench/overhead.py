"""Our own time for one turn of the engine's loop: everything but the model, on the platform that computes nothing.

The core runs in this thread with a channel that feeds it, so a turn is exactly what `EngineCore.run` does: receive,
plan, launch (bookkeeping of rows alone), complete, encode the outputs.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from harness import arguments, report

from sgcore.config import Choices
from sgcore.engine.core import EngineCore
from sgcore.engine.messages import Command, FromCore, Outputs, Request, SamplingParams, ToCore
from sgcore.plugins.plan import Plan
from sgcore.plugins.resolve import resolve

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "vocab_size": 32000,
    "max_position_embeddings": 8192,
}
PROMPT_TOKENS = 128
SHORT_TOKENS = 64
SHORT_OUTPUT = 8
PARTS = ("plan", "launch", "complete", "send")
TARGET_MS = {64: 0.3, 256: 1.0}
ENDLESS = 1 << 20

Times = dict[str, list[int]]


def make_plan(rows: int, policy: str) -> Plan:
    """A plan for the null platform with exactly `rows` rows and a queue without limits."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(CONFIG))
        choices = Choices.of(
            model_path=folder,
            load_format="dummy",
            platform="null",
            skip_tokenizer_init=True,
            max_running_requests=rows,
            max_total_tokens=rows * CONFIG["max_position_embeddings"],
            schedule_policy=policy,
            max_queued_requests=ENDLESS,
            max_queued_tokens=ENDLESS << 10,
        )
        return resolve(choices)


class Feed:
    """A channel whose other side is a list: hands out requests, one more for each that ends, and notes the turns."""

    def __init__(self, requests: list[Request], first: int) -> None:
        self.encode = msgspec.msgpack.Encoder().encode
        self.pending: list[ToCore] = list(requests[:first])
        self.later = iter(requests[first:])
        self.turns: list[int] = []
        self.finished = 0
        self.is_done: Callable[[], bool] = lambda: False

    def receive(self, timeout_s: float) -> Sequence[ToCore]:
        self.turns.append(time.perf_counter_ns())
        if self.is_done():
            return [Command(0, "shutdown")]
        pending, self.pending = self.pending, []
        return pending

    def send(self, message: FromCore) -> None:
        self.encode(message)
        if isinstance(message, Outputs):
            ended = sum(output.finish is not None for output in message.items)
            self.finished += ended
            self.pending += islice(self.later, ended)


def timed(part: Callable[..., Any], into: list[int]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        start = time.perf_counter_ns()
        result = part(*args)
        into.append(time.perf_counter_ns() - start)
        return result

    return call


def build(rows: int, policy: str, feed: Feed) -> tuple[EngineCore, Times]:
    """A core over the feed, with a clock around each part of a turn."""
    core = EngineCore(make_plan(rows, policy), feed)
    times: Times = {part: [] for part in (*PARTS, "handle")}
    scheduler, runner = core.scheduler, core.runner
    owners = {"plan": scheduler, "complete": scheduler, "launch": runner, "send": feed, "handle": core}
    for part, owner in owners.items():
        setattr(owner, part, timed(getattr(owner, part), times[part]))
    return core, times


def make_requests(count: int, tokens: int, output: int, seed: int) -> list[Request]:
    """Requests with different random prompts."""
    draw = np.random.default_rng(seed)
    prompts = draw.integers(0, CONFIG["vocab_size"], (count, tokens)).tolist()
    sampling = SamplingParams(max_new_tokens=output, temperature=0.0)
    return [Request(f"r{number}", prompt, sampling) for number, prompt in enumerate(prompts)]


def steady(rows: int, waiting: int, policy: str, turns: int) -> dict[str, Any]:
    """All rows decode; `waiting` more requests stand in the queue and can't be admitted."""
    feed = Feed(make_requests(rows + waiting, PROMPT_TOKENS, ENDLESS, seed=rows), rows + waiting)
    core, times = build(rows, policy, feed)
    scheduler = core.scheduler
    last = rows * PROMPT_TOKENS // 200 + 50 + turns
    feed.is_done = lambda: scheduler.stats.step >= last
    core.run()
    assert (len(scheduler.decoding), len(scheduler.waiting)) == (rows, waiting), "not the state that was meant"
    whole = np.diff(feed.turns)[-turns:] / 1e6
    row = {"policy": policy, "rows": rows, "waiting": waiting, **spread(whole)}
    row |= {f"{part}_ms": float(np.median(times[part][-turns:])) / 1e6 for part in PARTS}
    target = TARGET_MS.get(rows)
    return row | {"target": "–" if target is None else f"<{target} {'met' if row['turn_ms'] < target else 'MISSED'}"}


def churn(rows: int, waiting: int, policy: str, count: int) -> dict[str, Any]:
    """Short requests come as others end, so that `rows` run and `waiting` wait all the time."""
    feed = Feed(make_requests(rows + waiting + count, SHORT_TOKENS, SHORT_OUTPUT, seed=rows), rows + waiting)
    core, times = build(rows, policy, feed)
    feed.is_done = lambda: feed.finished >= count
    core.run()
    first = len(feed.turns) // 5
    whole = np.diff(feed.turns)[first:] / 1e6
    requests = count * len(whole) / len(feed.turns)
    row = {"policy": policy, "rows": rows, "waiting": waiting, **spread(whole)}
    row |= {"loop_us_per_request": float(whole.sum()) * 1e3 / requests}
    row |= {f"{part}_us_per_request": sum(times[part][first:]) / 1e3 / requests for part in PARTS}
    return row | {"add_us_per_request": float(np.median(times["handle"])) / 1e3}


def spread(milliseconds: np.ndarray[Any, Any]) -> dict[str, float]:
    """Median, 99th percentile and longest of the turns."""
    median, late, longest = np.percentile(milliseconds, [50, 99, 100])
    return {"turn_ms": float(median), "turn_p99_ms": float(late), "turn_max_ms": float(longest)}


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--waiting", type=int, nargs="+", default=[0, 1000, 10000])
    parser.add_argument("--policies", nargs="+", default=["fcfs", "lpm"])
    parser.add_argument("--turns", type=int, default=1000, help="turns measured in the steady state")
    parser.add_argument("--requests", type=int, default=4000, help="requests of one churn measurement")
    asked = parser.parse_args()
    build(1, "fcfs", Feed([], 0))  # imports what a core imports
    gc.freeze()  # as the core's process does then
    cases = [(policy, rows, waiting) for policy in asked.policies for rows in asked.rows for waiting in asked.waiting]
    tables = {
        "Steady decode": [steady(rows, waiting, policy, asked.turns) for policy, rows, waiting in cases],
        f"Churn: {SHORT_TOKENS} tokens in, {SHORT_OUTPUT} out": [
            churn(rows, waiting, policy, asked.requests) for policy, rows, waiting in cases if rows > 1
        ],
    }
    report("overhead", tables, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
