"""Constraints that were made to hurt are compiled or refused in time, and nobody else waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sgcore import Engine
from sgcore.errors import RequestError
from tests.constraints.conftest import OpenEngine
from tests.constraints.hostile import HOSTILE

LIMIT_S = 5.0
STALL_S = 0.15
"""Of this process's processor time, which other processes don't add to: 50 ms in which three threads work."""
ATTEMPTS = 12
"""Threads of this process stall a stream too, by chance; what a constraint does, it does each time."""


@dataclass
class Stream:
    """An unconstrained reply that never ends, and the gaps between its tokens in seconds of processor time."""

    engine: Engine
    gaps: list[float] = field(default_factory=list)
    is_over: bool = False

    def run(self) -> None:
        params = {"max_new_tokens": 1500, "ignore_eos": True}
        last = time.process_time()
        while not self.is_over:
            for _ in self.engine.generate("Tell", params, stream=True):
                now = time.process_time()
                self.gaps.append(now - last)
                last = now
                if self.is_over:
                    return

    def longest(self, work: Any) -> float:
        """The longest gap while `work` was done."""
        self.gaps.clear()
        work()
        time.sleep(0.02)
        return max(self.gaps)


@pytest.fixture(scope="module")
def stream(open_engine: OpenEngine) -> Iterator[Stream]:
    engine = open_engine(run_ahead=1)
    engine.generate("Say", {"regex": "a"})
    running = Stream(engine)
    thread = threading.Thread(target=running.run)
    thread.start()
    while len(running.gaps) < 20:
        time.sleep(0.01)
    yield running
    running.is_over = True
    thread.join()


def variant(constraint: dict[str, Any], attempt: int) -> dict[str, Any]:
    """The same trouble under another text, which has not been compiled yet."""
    ((kind, value),) = constraint.items()
    if kind == "choice":
        return {kind: [*value, f"{attempt}"]}
    return {kind: value + (f"z{{0,{attempt}}}" if kind == "regex" else "\n" * attempt)}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_ends_in_time_and_stalls_nobody(stream: Stream, name: str) -> None:
    normal = stream.longest(lambda: time.sleep(0.2))
    found = []
    for attempt in range(ATTEMPTS):
        params = {**variant(HOSTILE[name], attempt), "max_new_tokens": 24, "sampling_seed": 1}
        began = time.process_time()
        gap = stream.longest(lambda params=params: ask(stream.engine, params))
        found.append((gap - normal, time.process_time() - began))
        if gap - normal < STALL_S and found[-1][1] < LIMIT_S:
            return
    raise AssertionError(f"stalls and seconds of each attempt: {found}")


def ask(engine: Engine, params: dict[str, Any]) -> None:
    try:
        engine.generate("Say", params)
    except RequestError as error:
        assert error.status in (400, 500) and len(str(error)) < 2000  # 500: a limit that the output reached
