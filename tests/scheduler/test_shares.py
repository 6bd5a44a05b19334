"""A body of many requests doesn't starve others, and loses no token by giving way to them."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Mapping

import pytest

from sgcore.engine.messages import Request, SamplingParams
from sgcore.scheduler import policy
from sgcore.scheduler.policy import FirstComeFirstServed
from sgcore.scheduler.scheduler import Limits, Scheduler
from sgcore.scheduler.sequence import Sequence
from sgcore.scheduler.shares import Shares
from tests.scheduler.test_simulation import VOCABULARY, Machine, check_invariants

PROMPT = 12


def ask(rid: str, body: str = "", tokens: int = 150, prompt: int = PROMPT) -> Request:
    ids = [sum(map(ord, rid)) * 7 % VOCABULARY] * prompt
    return Request(rid, ids, SamplingParams(max_new_tokens=tokens), body=body)


def body_of(name: str, count: int, tokens: int = 150) -> list[Request]:
    return [ask(f"{name}{number}", name, tokens) for number in range(count)]


class Run:
    """Steps a scheduler; takes down each request's tokens and the step in which it got its first one and ended."""

    def __init__(self, pages: int = 2000, run_ahead: int = 0, **limits: object) -> None:
        self.limits = Limits(page_tokens=4, step_tokens=64, context_tokens=400, **limits)  # type: ignore[arg-type]
        self.scheduler, self.machine = Scheduler(self.limits, pages), Machine(self.limits, pages)
        self.run_ahead = run_ahead
        self.launched: deque = deque()
        self.tokens: dict[str, list[int]] = defaultdict(list)
        self.began: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.asked: dict[str, Request] = {}
        self.steps = 0

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.asked[request.rid] = request
            self.scheduler.add(request)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.steps += 1
            plan = self.scheduler.plan()
            if plan is not None:
                self.launched.append((plan, self.machine.launch(plan)))
            if self.launched and (plan is None or len(self.launched) > self.run_ahead):
                done, pending = self.launched.popleft()
                self.scheduler.complete(done, pending())
            outputs, self.scheduler.outputs = self.scheduler.outputs, []
            for output in outputs:
                self.began.setdefault(output.rid, self.steps)
                self.tokens[output.rid] += output.tokens
                if output.finish is not None:
                    assert output.finish == "length" and not output.message
                    self.ended[output.rid] = self.steps

    def finish(self) -> None:
        while self.scheduler.has_work or self.launched:
            self.step()
            assert self.steps < 30_000
        check_invariants(self.scheduler)
        for rid, request in self.asked.items():
            first, count = len(request.input_ids), request.sampling.max_new_tokens or 0
            assert self.tokens[rid] == [position % VOCABULARY for position in range(first, first + count)]

    @property
    def running(self) -> Mapping[str, int]:
        rows: dict[str, int] = defaultdict(int)
        for sequence in self.scheduler.sequences.values():
            rows[sequence.body] += sequence.row >= 0
        return rows


@pytest.mark.parametrize("policy", ["fcfs", "lpm"])
@pytest.mark.parametrize("run_ahead", [0, 2])
@pytest.mark.parametrize(
    "room", [{"max_rows": 8}, {"max_rows": 64, "pages": 150}, {"max_rows": 8, "uses_cache": False}], ids=str
)
def test_another_client_waits_for_no_row_of_a_large_body(room: dict[str, int], run_ahead: int, policy: str) -> None:
    run = Run(**room, run_ahead=run_ahead, policy=policy)
    run.add(*body_of("large", 64))
    run.step(40)
    assert not run.ended
    run.add(ask("other", tokens=3))
    run.step(15)
    assert "other" in run.ended and not run.ended.keys() - {"other"}
    run.finish()


def test_two_large_bodies_share_the_rows_however_late_the_second_comes() -> None:
    run = Run(max_rows=8)
    run.add(*body_of("first", 30))
    run.step(20)
    assert run.running["first"] == 8
    run.add(*body_of("second", 30))
    run.step(10)
    assert dict(run.running) == {"first": 4, "second": 4}
    run.step(300)
    assert dict(run.running) == {"first": 4, "second": 4}
    run.finish()


def test_a_body_that_is_alone_has_all_rows_and_gives_none_up() -> None:
    run = Run(max_rows=8)
    run.add(*body_of("large", 30, tokens=50))
    run.step(10)
    assert run.running["large"] == 8
    run.finish()
    assert run.scheduler.stats.retractions_total == 0


def test_requests_that_are_alone_are_served_in_the_order_of_their_arrival() -> None:
    run = Run(max_rows=2)
    run.add(*(ask(f"r{number}", tokens=10) for number in range(20)))
    run.finish()
    assert list(run.began) == [f"r{number}" for number in range(20)]
    assert run.scheduler.stats.retractions_total == 0


def test_a_large_body_goes_on_under_a_stream_of_others() -> None:
    run = Run(max_rows=4)
    run.add(*body_of("large", 8, tokens=20))
    number = waits = 0
    while not all(f"large{index}" in run.ended for index in range(8)):
        while len(run.scheduler.waiting) < 12:
            run.add(ask(f"other{number}", tokens=6))
            number += 1
        run.step()
        waits = 0 if run.running["large"] else waits + 1
        assert run.steps < 2000 and waits < 20
    run.finish()


def test_room_is_kept_for_those_that_wait_for_a_prefix_of_their_own_body() -> None:
    run = Run(max_rows=8)
    run.add(*body_of("large", 20))
    run.step(20)
    prefix = [5] * 300
    run.add(*(Request(f"s{n}", [*prefix, n], SamplingParams(max_new_tokens=40), body="s") for n in range(8)))
    run.step(20)
    assert dict(run.running) == {"large": 4, "s": 4}
    assert run.scheduler.stats.retractions_total <= 5, "rows that were given up are not taken back at once"
    run.finish()


@pytest.mark.parametrize("seed", range(6))
def test_nobody_starves_and_no_token_is_lost_in_random_histories(seed: int) -> None:
    draw = random.Random(seed)
    tight = draw.random() < 0.5
    run = Run(
        pages=120 if tight else 1500,
        max_rows=draw.choice([4, 8, 32]),
        policy=draw.choice(["fcfs", "lpm"]),
        run_ahead=draw.choice([0, 1, 3]),
    )
    waits: dict[str, int] = defaultdict(int)
    for number in range(40):
        size = draw.choice([1, 1, 1, 2, 12, 40])
        run.add(*body_of(f"b{number}-", size, tokens=draw.choice([1, 8, 60])))
        for _ in range(draw.randrange(12)):
            run.step()
            rows = run.running
            bodies = {sequence.body for sequence in run.scheduler.sequences.values()}
            for body in bodies:
                starves = not rows[body] and max(rows.values(), default=0) > 1
                waits[body] = waits[body] + 1 if starves else 0
                assert waits[body] < 60, f"{body} has no row, and others have more than one"
    run.finish()
    assert set(run.ended) == set(run.asked)


def test_the_first_of_each_body_comes_before_the_second_of_any_and_the_window_bounds_them() -> None:
    queue = FirstComeFirstServed()
    for request in [*body_of("a", 300), ask("x"), *body_of("b", 2), ask("y")]:
        queue.append(Sequence(request, [], 0, 0, frozenset()))
    order = [sequence.rid for sequence in queue.oldest()]
    assert order[:7] == ["a0", "x", "b0", "y", "a1", "b1", "a2"] and len(order) == policy.WINDOW
    for sequence in queue.oldest()[:3]:
        queue.remove(sequence)
    assert [sequence.rid for sequence in queue.oldest()][:3] == ["a1", "b1", "y"]
    assert len(queue) == 301


def test_the_next_row_goes_to_the_body_with_the_fewest() -> None:
    shares = Shares()
    running = [Sequence(request, [], 0, 0, frozenset()) for request in [*body_of("a", 3), ask("x")]]
    waiting = [Sequence(request, [], 0, 0, frozenset()) for request in [*body_of("a", 2), ask("y"), *body_of("b", 5)]]
    assert shares.largest(0) is None
    for sequence in running:
        shares.take_row(sequence)
    turns = [(rows, sequence.rid) for rows, sequence in shares.in_turn(waiting)]
    assert turns == [(0, "y"), (0, "b0"), (1, "b1"), (2, "b2"), (3, "a0"), (3, "b3"), (4, "a1"), (4, "b4")]
    assert (shares.largest(3), shares.largest(4), shares.rows(running[0])) == ("a", None, 3)
    for sequence in running:
        shares.give_row(sequence)
    assert not shares._rows
