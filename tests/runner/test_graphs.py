"""Which steps share a graph, and that a graph is captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sgcore.runner.graphs import StepGraphs
from sgcore.scheduler.step import ChunkPlan, StepPlan


class Recorder:
    """A platform whose graphs count how often they are replayed."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        work()

        def replay() -> None:
            self.replayed += 1

        return replay


def step_of(decode: int, *chunks: int) -> StepPlan:
    parts = [ChunkPlan(decode + place, 0, count, True) for place, count in enumerate(chunks)]
    return StepPlan(0, decode=list(range(decode)), chunks=parts)


@pytest.mark.parametrize("decode", [0, 1, 31, 100])
@pytest.mark.parametrize("chunks", [(), (1,), (5, 300), (900,), (2500, 17)])
def test_a_size_holds_its_step(decode: int, chunks: tuple[int, ...]) -> None:
    if not decode and not chunks:
        return
    size = StepGraphs(Recorder(), 100, 8192).size(step_of(decode, *chunks))
    assert size is not None
    assert decode <= size.decode_rows <= 100 and len(chunks) <= size.chunk_rows + (not chunks)
    assert sum(chunks) <= size.chunk_tokens + (not chunks) and size.tokens >= decode + sum(chunks)


def test_large_steps_and_many_chunks_are_not_captured() -> None:
    graphs = StepGraphs(Recorder(), 100, 1000)
    assert graphs.size(step_of(3, 999)) is None
    assert graphs.size(step_of(3, *[1] * 40)) is None
    assert StepGraphs(Recorder(), 100, 0).size(step_of(3)) is None


def test_the_second_run_of_a_key_is_captured_and_later_ones_are_replayed() -> None:
    recorder, computed = Recorder(), []
    graphs = StepGraphs(recorder, 100, 1000)

    def compute() -> SimpleNamespace:
        computed.append(1)
        return SimpleNamespace(number=len(computed))

    outputs = [graphs.run("key", compute).number for _ in range(4)]
    assert outputs == [1, 2, 2, 2]
    assert (recorder.captured, recorder.replayed) == (1, 3)


def test_what_cannot_be_captured_runs_as_it_is_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder, computed = Recorder(), []

    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(recorder, "capture", refuse)
    graphs = StepGraphs(recorder, 100, 1000)
    for key in ("one", "another") * 4:
        graphs.run(key, lambda: computed.append(1))
    assert len(computed) == 8
    said = [record.getMessage() for record in caplog.records]
    assert said == ["steps run uncaptured, which is slower: out of memory"]
