"""The loop over the null platform: what it answers, and that a failure stays where it is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sgcore.api import Pending
from sgcore.config import Choices
from sgcore.engine.core import EngineCore, run_core
from sgcore.engine.frontend import Frontend
from sgcore.engine.messages import (
    Abort,
    Alive,
    Command,
    Failed,
    FromCore,
    Output,
    Outputs,
    Ready,
    Reply,
    Request,
    SamplingParams,
    ToCore,
)
from sgcore.errors import DeviceLost
from sgcore.plugins.plan import Plan
from sgcore.plugins.resolve import resolve
from sgcore.scheduler.step import StepPlan
from sgcore_null.platform import NullRunner

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}
Turn = list[ToCore]


class Script:
    """A channel that hands out a list of messages a turn, then shuts down once nothing is left to do."""

    def __init__(self, *turns: Turn) -> None:
        self.turns = list(turns)
        self.sent: list[FromCore] = []
        self.is_idle: Callable[[], bool] = lambda: True

    def receive(self, timeout_s: float) -> Sequence[ToCore]:
        if self.turns:
            return self.turns.pop(0)
        return [Command(99, "shutdown")] if self.is_idle() else []

    def send(self, message: FromCore) -> None:
        self.sent.append(message)

    def outputs(self, rid: str) -> list[Output]:
        return [item for sent in self.sent if isinstance(sent, Outputs) for item in sent.items if item.rid == rid]

    def end(self, rid: str) -> Output:
        (end,) = [output for output in self.outputs(rid) if output.finish is not None]
        return end


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    def make(**options: Any) -> Plan:
        return resolve(Choices.of(model_path=str(tmp_path), load_format="dummy", platform="null", **options))

    return make


def ask(rid: str, tokens: int = 4, prompt: int = 20) -> Request:
    return Request(rid, list(range(prompt)), SamplingParams(max_new_tokens=tokens, temperature=0.0))


def run(plan: Plan, script: Script, prepare: Callable[[EngineCore], None] = lambda core: None) -> EngineCore:
    core = EngineCore(plan, script)
    script.is_idle = lambda: not core.scheduler.has_work
    prepare(core)
    core.run()
    return core


def test_requests_are_answered_and_commands_replied_to(make_plan: Callable[..., Plan]) -> None:
    script = Script([ask("a"), ask("b", tokens=9)], [Command(1, "flush_cache")], [Command(2, "stats")])
    run(make_plan(), script)
    assert isinstance(script.sent[0], Ready)
    assert [len([t for o in script.outputs(rid) for t in o.tokens]) for rid in "ab"] == [4, 9]
    replies = {sent.call: sent for sent in script.sent if isinstance(sent, Reply)}
    assert not replies[1].is_ok, "flushed under running requests"
    assert replies[2].stats is not None and replies[2].stats.running == 2


@pytest.mark.parametrize("turn", [0, 1, 2, 3], ids=["queued", "prefilling", "last-chunk", "decoding"])
def test_an_abort_reaches_every_stage(make_plan: Callable[..., Plan], turn: int) -> None:
    turns: list[Turn] = [[ask("a", tokens=400, prompt=60)], [], [], []]
    turns[turn].append(Abort(["a"]))
    script = Script(*turns)
    core = run(make_plan(chunked_prefill_size=32), script)
    end = script.end("a")
    assert (end.finish, end.status) == ("abort", 499)
    assert sum(len(output.tokens) for output in script.outputs("a")) == max(0, turn - 1)
    assert core.scheduler.pages.free + core.scheduler.tree.evictable_pages == core.scheduler.pages.total


def test_a_step_that_fails_ends_its_own_requests_alone(
    make_plan: Callable[..., Plan], caplog: pytest.LogCaptureFixture
) -> None:
    script = Script([ask("first"), ask("second")])

    def break_once(core: EngineCore) -> None:
        launch = core.runner.launch

        def fail(step: Any) -> Any:
            core.runner.launch = launch  # type: ignore[method-assign]
            raise RuntimeError("out of luck")

        core.runner.launch = fail  # type: ignore[method-assign]

    core = run(make_plan(max_running_requests=1), script, break_once)
    first, second = script.end("first"), script.end("second")
    assert (first.finish, first.status, first.message) == ("abort", 500, "RuntimeError: out of luck")
    assert second.finish == "length" and second.cached_tokens == 0
    assert "step 0 failed" in caplog.text and core.scheduler.flush_cache()


@pytest.mark.parametrize("survives", [True, False])
def test_a_core_whose_device_is_lost_says_so(
    make_plan: Callable[..., Plan], survives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, run = Script([ask("first")]), EngineCore.run

    def broken(core: EngineCore) -> None:
        core.runner.launch = lambda step: 1 / 0  # type: ignore[method-assign]
        if not survives:
            core.runner.recover = lambda: (_ for _ in ()).throw(DeviceLost("fell off"))  # type: ignore[method-assign]
        script.is_idle = lambda: not core.scheduler.has_work
        run(core)

    monkeypatch.setattr(EngineCore, "run", broken)
    assert run_core(make_plan(), script) == survives
    failed = [sent for sent in script.sent if isinstance(sent, Failed)]
    assert [(f.is_device_lost, "fell off" in f.message) for f in failed] == ([] if survives else [(True, True)])


def test_a_core_that_cannot_start_says_why(make_plan: Callable[..., Plan]) -> None:
    script = Script()
    plan = make_plan()
    plan.hf_config.pop("vocab_size")  # type: ignore[attr-defined]
    assert not run_core(plan, script)
    (failed,) = script.sent
    assert isinstance(failed, Failed) and "vocab_size" in failed.message


def test_a_core_in_a_long_step_says_that_it_is_alive_and_since_when(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgcore.engine.core.HEARTBEAT_S", 0.02)
    told: list[float] = []
    enough = threading.Event()

    class Channel(Script):
        def send(self, message: FromCore) -> None:
            if isinstance(message, Alive):
                told.append(message.turned)
                if told.count(message.turned) >= 5:
                    enough.set()
            super().send(message)

    script = Channel([ask("a")])
    plan = make_plan()
    launch = NullRunner.launch

    def slow(runner: NullRunner, step: StepPlan) -> Pending:
        assert enough.wait(60)
        return launch(runner, step)

    monkeypatch.setattr(NullRunner, "launch", slow)
    assert run_core(plan, script)
    assert max(map(told.count, told)) >= 5 and script.outputs("a")


@pytest.mark.parametrize("silent_s, turn_s, expected", [(0, 0, True), (0, 100, True), (0, 400, False), (9, 0, False)])
def test_alive_is_who_is_heard_and_turns(
    make_plan: Callable[..., Plan], silent_s: float, turn_s: float, expected: bool
) -> None:
    frontend = Frontend(make_plan(skip_tokenizer_init=True), lambda *messages: None, lambda: None)
    assert not frontend.is_alive(), "not ready"
    frontend.on_message(Ready([], 1000, 500))
    assert frontend.is_alive()
    frontend.on_message(Alive(time.monotonic() - turn_s))
    frontend._last_heard -= silent_s
    assert frontend.is_alive() == expected
