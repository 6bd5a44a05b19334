"""Prompts are queued all or none, whatever is wrong with one of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from sgcore.config import Choices
from sgcore.engine.client import CoreProcess
from sgcore.engine.frontend import Frontend
from sgcore.engine.messages import Abort, Output, Outputs, Ready, Request, SamplingParams, ToCore, Unpin
from sgcore.engine.prompt import Prompt
from sgcore.errors import RequestError
from sgcore.plugins.plan import Plan
from sgcore.plugins.resolve import resolve
from tests.engine.test_core import CONFIG

GREEDY = SamplingParams(max_new_tokens=3, temperature=0.0)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    options: dict[str, Any] = {"load_format": "dummy", "platform": "null", "skip_tokenizer_init": True}
    return resolve(Choices.of(model_path=str(tmp_path), **options))


class Core:
    """Takes down what it is sent, and ends every request at once if `answers`."""

    def __init__(self, plan: Plan) -> None:
        self.sent: list[ToCore] = []
        self.answers = True
        self.frontend = Frontend(plan, self.send, lambda: None)
        self.frontend.on_message(Ready([], 10_000, 500))

    def send(self, *messages: ToCore) -> None:
        self.sent += messages
        for message in messages:
            if self.answers and isinstance(message, Request):
                self.frontend.on_message(Outputs([Output(message.rid, [7], "length")]))

    @property
    def requests(self) -> list[Request]:
        return [message for message in self.sent if isinstance(message, Request)]


@pytest.fixture
def core(plan: Plan) -> Core:
    return Core(plan)


def asks(*rids: str, n: int = 1) -> list[Prompt]:
    sampling = SamplingParams(max_new_tokens=3, temperature=0.0, n=n)
    return [Prompt(sampling, input_ids=[1, 2], rid=rid) for rid in rids]


def finished(frontend: Frontend, prompts: list[Prompt]) -> list[tuple[int, int]]:
    return [(place, g.index) for place, g in frontend.stream(*prompts) if g.is_finished]


async def afinished(frontend: Frontend, prompts: list[Prompt]) -> list[tuple[int, int]]:
    return [(place, g.index) async for changes in frontend.astream(*prompts) for place, g in changes if g.is_finished]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "taken, prompts, message",
    [
        ("a-1", asks("a", n=2), "'a-1' is in use"),
        ("b", asks("a", "b", "c"), "'b' is in use"),
        ("z", asks("a", "b", "a"), "'a' is given twice"),
        ("z", [*asks("a", n=2), *asks("a-0")], "'a-0' is given twice"),
        ("z", [*asks("a"), Prompt(GREEDY, input_ids=[5000], rid="b")], "vocabulary"),
        ("z", [*asks("a"), Prompt(GREEDY, input_ids=[1] * 600, rid="b")], "600 tokens"),
        ("z", [*asks("a"), Prompt(GREEDY, text="no tokenizer", rid="b")], "tokenizer"),
    ],
    ids=["a sample", "a prompt", "twice", "a sample and a prompt", "an id", "a length", "a text"],
)
def test_a_body_that_is_refused_leaves_nothing_behind(
    core: Core, is_async: bool, taken: str, prompts: list[Prompt], message: str
) -> None:
    core.answers = False
    core.frontend.submit(asks(taken), lambda outputs: None)
    known = list(core.sent)
    with pytest.raises(RequestError, match=message):
        asyncio.run(afinished(core.frontend, prompts)) if is_async else finished(core.frontend, prompts)
    assert core.sent == known, "nothing was sent, and the one whose id it is goes on"
    assert set(core.frontend._consumers) == {taken}


def test_a_message_that_can_not_be_sent_leaves_its_ids_free(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*messages: ToCore) -> None:
        raise RequestError("the request can't be passed to the engine core")

    with monkeypatch.context() as patch:
        patch.setattr(core.frontend, "_send", refuse)
        with pytest.raises(RequestError, match="can't be passed"):
            finished(core.frontend, asks("a", "b", n=2))
    assert not core.frontend._consumers
    assert len(finished(core.frontend, asks("a", "b", n=2))) == 4


def test_prompts_that_come_together_are_one_body_and_others_are_not(core: Core) -> None:
    assert finished(core.frontend, asks("a", "b", n=2)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert asyncio.run(afinished(core.frontend, asks("c"))) == [(0, 0)]
    first, *rest = [request.body for request in core.requests]
    assert first and rest[:3] == [first] * 3 and rest[3] not in ("", first)


def test_closing_a_stream_ends_what_has_not_finished(core: Core) -> None:
    core.answers = False
    stream = core.frontend.stream(*asks("a", "b", "c"))
    core.frontend._send = lambda *messages: [core.send(*messages), answer_two(core)]  # type: ignore[func-returns-value, assignment]
    next(stream)
    core.frontend._send = core.send
    stream.close()
    assert core.sent[-1] == Abort(["b", "c"]) and not core.frontend._consumers


def answer_two(core: Core) -> None:
    core.frontend.on_message(Outputs([Output("a", [7], "length"), Output("b", [7])]))


@pytest.fixture
def process(plan: Plan) -> Iterator[CoreProcess]:
    started = CoreProcess({"plan": plan.to_json()})
    started.serve(plan)
    started.frontend.wait_ready()
    yield started
    started.close()


def test_a_real_core_takes_all_or_none(process: CoreProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    frontend, requests = process.frontend, process.frontend.intake.requests
    for name, value in (("namespace", "\ud800"), ("rid", "\udfff"), ("logprob_start", 2**70), ("stop_ids", object())):

        def broken(*words: Any, name: str = name, value: Any = value) -> list[Request]:
            return [structs.replace(made, **{name: value}) if made.rid == "b" else made for made in requests(*words)]

        with monkeypatch.context() as patch, pytest.raises(RequestError, match="can't be passed to the engine core"):
            patch.setattr(frontend.intake, "requests", broken)
            finished(frontend, asks("a", "b"))
        assert not frontend._consumers
    with pytest.raises(RequestError, match="can't be passed"):
        process.send(Unpin("\ud800"))
    assert finished(frontend, asks("a", "b")) == [(0, 0), (1, 0)]


def test_a_send_to_a_core_that_has_died_does_not_block(process: CoreProcess) -> None:
    process.process.kill()
    process.process.wait()
    with pytest.raises(RequestError, match="died"):
        for _ in range(1000):
            finished(process.frontend, asks("a"))


def test_a_reply_of_millions_of_logprobs_is_refused(core: Core) -> None:
    sampling = SamplingParams(max_new_tokens=None, temperature=0.0, n=64)
    asked = Prompt(sampling, input_ids=[1, 2], logprob_start=0, top_logprobs=256)
    with pytest.raises(RequestError, match=r"8,421,376 log-probabilities .* the most of a request is 4,194,304"):
        list(core.frontend.stream(asked))
    assert not core.requests


@pytest.mark.parametrize("seed", [0, 2**63 - 1, -(2**63)])
def test_seeds_of_samples_are_integers_of_64_bits_and_differ(core: Core, seed: int) -> None:
    sampling = SamplingParams(max_new_tokens=3, sampling_seed=seed, n=3)
    list(core.frontend.stream(Prompt(sampling, input_ids=[1, 2])))
    seeds = [request.sampling.sampling_seed for request in core.requests]
    assert np.array(seeds, np.int64).tolist() == seeds and seeds[0] == seed and len(set(seeds)) == 3
