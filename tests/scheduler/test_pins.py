"""Pinned prefixes: never evicted while the pin holds, bounded, and everything is unlocked in the end."""

from __future__ import annotations

import random
from collections import deque

import pytest

from sgcore.engine.messages import Request, SamplingParams
from sgcore.scheduler import pins
from sgcore.scheduler.pins import Pins
from sgcore.scheduler.scheduler import Limits, Scheduler
from tests.scheduler.test_simulation import Machine, check_invariants

PAGE = 4
LIMITS = Limits(page_tokens=PAGE, max_rows=4, step_tokens=16, mixed_tokens=16, context_tokens=400)


def finish(scheduler: Scheduler, machine: Machine) -> list[str]:
    """Run until nothing is left; how each request ended."""
    steps: deque[tuple[object, object]] = deque()
    while (step := scheduler.plan()) is not None:
        steps.append((step, machine.launch(step)))
        plan, pending = steps.popleft()
        scheduler.complete(plan, pending())  # type: ignore[arg-type, operator]
    ended = [output.finish for output in scheduler.outputs if output.finish is not None]
    scheduler.outputs.clear()
    return [finish for finish in ended if finish is not None]


def ask(scheduler: Scheduler, name: str, tokens: list[int]) -> None:
    scheduler.add(Request(name, tokens, SamplingParams(max_new_tokens=1)))


@pytest.fixture
def parts() -> tuple[Scheduler, Machine]:
    return Scheduler(LIMITS, 40), Machine(LIMITS, 40)


@pytest.mark.parametrize("seed", range(8))
def test_pinned_prefixes_stay_whatever_else_is_asked(seed: int) -> None:
    draw = random.Random(seed)
    scheduler, machine = Scheduler(LIMITS, 40), Machine(LIMITS, 40)
    pinned: dict[str, list[int]] = {}
    for number in range(150):
        tokens = [draw.randrange(90) for _ in range(draw.choice([5, 9, 17, 40]))]
        ask(scheduler, f"r{number}", tokens)
        assert "abort" not in finish(scheduler, machine)
        action = draw.random()
        if action < 0.4 and scheduler.pins.add(f"g{number}", tokens):
            pinned[f"g{number}"] = tokens
        elif action < 0.6 and pinned:
            group = draw.choice(sorted(pinned))
            scheduler.pins.remove(group)
            del pinned[group]
        assert scheduler.pins.pages <= 39 * pins.POOL_SHARE and len(scheduler.pins) == len(pinned)
        for tokens in pinned.values():
            assert scheduler.tree.match(tokens).tokens == len(tokens) // PAGE * PAGE
        check_invariants(scheduler)
    for group in pinned:
        scheduler.pins.remove(group)
    assert scheduler.tree.locked_pages == scheduler.pins.pages == 0
    assert scheduler.flush_cache() and scheduler.pages.free == scheduler.pages.total


def test_a_pin_ends_by_itself(parts: tuple[Scheduler, Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, machine = parts
    ask(scheduler, "r", [1] * 9)
    finish(scheduler, machine)
    monkeypatch.setattr(pins, "LIFETIME_S", -1.0)
    assert scheduler.pins.add("g", [1] * 9) and scheduler.tree.locked_pages == 2
    assert scheduler.plan() is None  # an idle core plans once a second
    assert len(scheduler.pins) == scheduler.tree.locked_pages == 0


def test_pins_are_bounded_in_number_and_pages(
    parts: tuple[Scheduler, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, machine = parts
    for number in range(5):
        ask(scheduler, f"r{number}", [number + 1] * 25)
        finish(scheduler, machine)
    made = [scheduler.pins.add(f"g{number}", [number + 1] * 25) for number in range(5)]
    assert made == [True, True, True, False, False] and scheduler.pins.pages == 18
    monkeypatch.setattr(pins, "MAX_PINS", 3)
    assert not scheduler.pins.add("more", [1] * 5)
    assert scheduler.pins.add("g0", [1] * 5), "the same group again takes the place of its old pin"


def test_what_is_not_cached_is_not_pinned(parts: tuple[Scheduler, Machine]) -> None:
    scheduler, _ = parts
    assert not scheduler.pins.add("g", [5] * 20)
    scheduler.pins.remove("unknown")


def test_pins_give_way_to_a_request_that_has_no_other_room(parts: tuple[Scheduler, Machine]) -> None:
    scheduler, machine = parts
    for number in range(3):
        ask(scheduler, f"r{number}", [number + 1] * 24)
        finish(scheduler, machine)
        assert scheduler.pins.add(f"g{number}", [number + 1] * 24)
    ask(scheduler, "large", [9] * 140)
    assert finish(scheduler, machine) == ["length"]
    assert len(scheduler.pins) == 0
    check_invariants(scheduler)


def test_flushing_the_cache_ends_pins(parts: tuple[Scheduler, Machine]) -> None:
    scheduler, machine = parts
    ask(scheduler, "r", [1] * 9)
    finish(scheduler, machine)
    scheduler.pins.add("g", [1] * 9)
    assert scheduler.flush_cache()
    assert scheduler.pages.free == scheduler.pages.total and len(scheduler.pins) == 0


def test_namespaces_are_apart(parts: tuple[Scheduler, Machine]) -> None:
    scheduler, machine = parts
    ask(scheduler, "r", [1] * 9)
    finish(scheduler, machine)
    tree_pins = Pins(scheduler.tree, 40)
    assert not tree_pins.add("g", [1] * 9, "other") and tree_pins.add("g", [1] * 9, "")
