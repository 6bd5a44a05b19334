"""The loop under constraints, on the null platform with a language of arithmetic."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sgcore.config import Choices
from sgcore.constraints.compiler import MOST_JOBS
from sgcore.constraints.masks import EVERYTHING, Filling
from sgcore.constraints.progress import Progress
from sgcore.engine.core import EngineCore
from sgcore.engine.messages import Abort, FromCore, Output, Outputs, Request, SamplingParams, ToCore, Vocabulary
from sgcore.plugins.plan import Driver, Plan
from sgcore.plugins.resolve import resolve
from tests.constraints import fake

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": fake.VOCABULARY,
    "max_position_embeddings": 512,
}
DRIVER = Driver("grammar", "fake", "tests.constraints.fake:FakeBackend", "tests", "0")


class Wire:
    """A channel that a test fills and reads."""

    def __init__(self) -> None:
        self.inbox: list[ToCore] = [Vocabulary("{}", [1])]
        self.tokens: dict[str, list[int]] = defaultdict(list)
        self.ends: dict[str, Output] = {}

    def receive(self, timeout_s: float) -> Sequence[ToCore]:
        messages, self.inbox = self.inbox, []
        if not messages and timeout_s:
            time.sleep(min(timeout_s, 0.001))
        return messages

    def send(self, message: FromCore) -> None:
        for output in message.items if isinstance(message, Outputs) else []:
            assert output.rid not in self.ends, "an output after the end"
            self.tokens[output.rid] += output.tokens
            if output.finish is not None:
                self.ends[output.rid] = output


@pytest.fixture
def make_core(tmp_path: Path) -> Callable[..., tuple[EngineCore, Wire]]:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    def make(**options: Any) -> tuple[EngineCore, Wire]:
        plan: Plan = resolve(Choices.of(model_path=str(tmp_path), load_format="dummy", platform="null", **options))
        wire = Wire()
        return EngineCore(replace(plan, grammar=DRIVER), wire), wire

    return make


@pytest.fixture(autouse=True)
def closed_gate() -> Iterator[None]:
    fake.gate.clear()
    fake.compiled.clear()
    yield
    fake.gate.set()


def ask(rid: str, language: str | None, most: int = 200, prompt: int = 20, **more: Any) -> Request:
    sampling = SamplingParams(max_new_tokens=most, temperature=0.0, regex=language)
    return Request(rid, list(range(prompt)), sampling, **more)


def turn(core: EngineCore, wire: Wire) -> None:
    """One turn of `EngineCore.run`."""
    for message in wire.receive(0.001 if core.grammars.waiting else 0.0):
        core.handle(message)
    core.take_compiled()
    core.step()


def run_until(core: EngineCore, wire: Wire, *rids: str) -> None:
    deadline = time.monotonic() + 30
    while not all(rid in wire.ends for rid in rids):
        assert time.monotonic() < deadline, "nothing came"
        turn(core, wire)


def check(wire: Wire, rid: str, language: str) -> None:
    """The output is a text of its language, as far as it goes."""
    seed, _, length = language.partition(":")
    matcher = fake.FakeMatcher(int(seed), int(length))
    matcher.accept(wire.tokens[rid])
    assert wire.ends[rid].finish in ("stop", "length"), wire.ends[rid]
    assert (wire.ends[rid].finish == "stop") == matcher.is_complete


@pytest.mark.parametrize("run_ahead", [0, 1, 3])
@pytest.mark.parametrize("pool_tokens", [100_000, 280])
def test_many_requests_follow_their_languages(
    make_core: Callable[..., tuple[EngineCore, Wire]], run_ahead: int, pool_tokens: int
) -> None:
    draw = random.Random(run_ahead)
    options = {"max_total_tokens": pool_tokens, "run_ahead": run_ahead, "max_running_requests": 16}
    core, wire = make_core(page_size=4, chunked_prefill_size=64, **options)
    languages: dict[str, str | None] = {}
    for number in range(300):
        language = f"{draw.randrange(40)}:{draw.choice([1, 5, 30, 60])}" if draw.random() < 0.7 else None
        languages[f"r{number}"] = language
        wire.inbox.append(ask(f"r{number}", language, draw.choice([1, 7, 60, 100]), draw.choice([1, 3, 40, 90])))
        if draw.random() < 0.1:
            wire.inbox.append(Abort([f"r{draw.randrange(number + 1)}"]))
        for _ in range(draw.choice([0, 0, 1, 5])):
            turn(core, wire)
    run_until(core, wire, *languages)
    ended = 0
    for rid, language in languages.items():
        if wire.ends[rid].finish == "abort":
            assert wire.ends[rid].status == 499, wire.ends[rid]
        elif language is not None:
            check(wire, rid, language)
            ended += 1
    assert ended > 150 and len(fake.compiled) == len(set(fake.compiled)), "each constraint is compiled once"
    assert core.scheduler.stats.retractions_total > 0 or pool_tokens > 1000
    while core._launched:
        core.step()
    assert core.scheduler.flush_cache() and not core.scheduler.snapshot().violations_total
    assert core.scheduler.pages.free == core.scheduler.pages.total


def test_others_go_on_while_a_constraint_is_compiled(make_core: Callable[..., tuple[EngineCore, Wire]]) -> None:
    core, wire = make_core()
    wire.inbox += [ask("slow", "slow1:5"), ask("other", "2:5"), ask("free", None)]
    run_until(core, wire, "other", "free")
    assert "slow" not in wire.ends and not wire.tokens["slow"]
    fake.gate.set()
    run_until(core, wire, "slow")
    check(wire, "slow", "1:5")


def test_an_abort_and_a_deadline_reach_a_request_that_waits_for_its_constraint(
    make_core: Callable[..., tuple[EngineCore, Wire]],
) -> None:
    core, wire = make_core()
    wire.inbox += [ask("a", "slow1:5"), ask("late", "slow1:5", deadline=time.monotonic() + 0.1), ask("b", "slow2:5")]
    for _ in range(3):
        turn(core, wire)
    wire.inbox += [Abort(["a"])]
    run_until(core, wire, "a", "late")
    assert (wire.ends["a"].status, wire.ends["late"].status) == (499, 504)
    wire.inbox += [Abort([], everything=True)]
    run_until(core, wire, "b")
    assert not core.grammars.waiting
    fake.gate.set()
    wire.inbox += [ask("again", "slow1:5")]
    run_until(core, wire, "again")
    check(wire, "again", "1:5")


def test_what_takes_too_long_is_refused_and_remembered(
    make_core: Callable[..., tuple[EngineCore, Wire]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgcore.constraints.compiler.LIMIT_S", 0.05)
    core, wire = make_core()
    for rid in ("first", "second"):
        wire.inbox += [ask(rid, "slow1:5")]
        run_until(core, wire, rid)
        assert wire.ends[rid].status == 400 and "longer than" in wire.ends[rid].message


def test_the_limit_counts_from_when_a_thread_begins(
    make_core: Callable[..., tuple[EngineCore, Wire]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgcore.constraints.compiler.LIMIT_S", 0.5)
    compile_one = fake.FakeBackend.compile

    def take_time(self: fake.FakeBackend, constraint: Any) -> Any:
        time.sleep(0.1)
        return compile_one(self, constraint)

    monkeypatch.setattr(fake.FakeBackend, "compile", take_time)
    core, wire = make_core()
    languages = [f"{number}:3" for number in range(20)]
    wire.inbox += [ask(language, language) for language in languages]
    run_until(core, wire, *languages)
    for language in languages:
        check(wire, language, language)


def test_a_constraint_that_no_thread_takes_is_refused_for_now(
    make_core: Callable[..., tuple[EngineCore, Wire]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgcore.constraints.compiler.WAIT_LIMIT_S", 0.1)
    core, wire = make_core()
    wire.inbox += [ask("a", "slow1:5"), ask("b", "slow2:5"), ask("waits", "3:5")]
    run_until(core, wire, "waits")
    assert wire.ends["waits"].status == 503 and "try again later" in wire.ends["waits"].message
    fake.gate.set()
    run_until(core, wire, "a", "b")
    wire.inbox += [ask("again", "3:5")]
    run_until(core, wire, "again")
    check(wire, "again", "3:5")


def test_more_constraints_than_are_compiled_at_once_wait(make_core: Callable[..., tuple[EngineCore, Wire]]) -> None:
    core, wire = make_core()
    languages = [f"{number}:3" for number in range(MOST_JOBS + 40)]
    wire.inbox += [ask(language, language) for language in languages]
    turn(core, wire)
    assert len(core.grammars._compiler._jobs) <= MOST_JOBS
    run_until(core, wire, *languages)
    for language in languages:
        check(wire, language, language)


def test_a_refusal_is_the_backends_own(make_core: Callable[..., tuple[EngineCore, Wire]]) -> None:
    core, wire = make_core()
    wire.inbox += [ask("bad", "bad"), ask("broken", "no number")]
    run_until(core, wire, "bad", "broken")
    assert (wire.ends["bad"].message, wire.ends["bad"].status) == ("the keyword bad is not supported", 400)
    assert "ValueError" in wire.ends["broken"].message


def test_compiled_grammars_are_kept_within_a_limit(
    make_core: Callable[..., tuple[EngineCore, Wire]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgcore.constraints.compiler.CACHE_BYTES", 3000)
    core, wire = make_core()
    for place, seed in enumerate((1, 2, 3, 1, 4, 1, 2)):
        wire.inbox += [ask(f"r{place}", f"{seed}:3")]
        run_until(core, wire, f"r{place}")
    assert fake.compiled == ["1:3", "2:3", "3:3", "4:3", "2:3"], "the least recently used one went"


@pytest.mark.parametrize("run_ahead", [0, 1])
def test_a_matcher_that_fails_ends_its_own_request(
    make_core: Callable[..., tuple[EngineCore, Wire]], monkeypatch: pytest.MonkeyPatch, run_ahead: int
) -> None:
    core, wire = make_core(run_ahead=run_ahead)
    fill = fake.FakeMatcher.fill

    def fail_in_the_middle(self: fake.FakeMatcher, mask: Any) -> None:
        if self.left < 20 and self.seed_of_text == 5:
            raise fake.ConstraintError("too complex")
        fill(self, mask)

    start = fake.FakeGrammar.start

    def start_with_name(self: fake.FakeGrammar) -> fake.FakeMatcher:
        matcher = start(self)
        matcher.seed_of_text = self.seed  # type: ignore[attr-defined]
        return matcher

    monkeypatch.setattr(fake.FakeMatcher, "fill", fail_in_the_middle)
    monkeypatch.setattr(fake.FakeGrammar, "start", start_with_name)
    wire.inbox += [ask("fails", "5:40"), ask("other", "6:40"), ask("free", None, 40)]
    run_until(core, wire, "fails", "other", "free")
    assert (wire.ends["fails"].status, wire.ends["fails"].message) == (500, "too complex")
    assert 0 < len(wire.tokens["fails"]) < 40
    check(wire, "other", "6:40")
    assert len(wire.tokens["free"]) == 40
    monkeypatch.setattr(fake.FakeMatcher, "fill", fill)
    wire.inbox += [ask("again", "5:40"), ask("other again", "6:40")]
    run_until(core, wire, "again", "other again")
    check(wire, "again", "5:40")
    assert sorted(fake.compiled) == ["5:40", "5:40", "6:40"], "what failed is compiled anew, and nothing else"


def test_without_a_backend_there_is_a_clear_refusal(make_core: Callable[..., tuple[EngineCore, Wire]]) -> None:
    core, wire = make_core()
    core.grammars._plan = replace(core.grammars._plan, grammar=None)
    wire.inbox += [ask("a", "1:5")]
    run_until(core, wire, "a")
    assert wire.ends["a"].status == 400 and "no grammar backend" in wire.ends["a"].message


def test_rows_that_are_given_up_are_filled_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgcore.constraints.masks.WAIT_LIMIT_S", 0.05)
    filled = []

    class Slow(fake.FakeMatcher):
        def fill(self, mask: Any) -> None:
            filled.append(self.seed)
            time.sleep(0.1)
            mask[:] = 0

    monkeypatch.setattr(fake, "FakeMatcher", Slow)
    filling = Filling([Progress(fake.FakeGrammar(seed, 5)) for seed in range(4)], 1)
    with ThreadPoolExecutor(1) as pool:
        filling.start(pool, 1)
        filling.wait()
        masks = filling.masks
        assert set(filling.failures) == {0, 1, 2, 3}
    assert len(filled) == 1 and (masks == EVERYTHING).all()
