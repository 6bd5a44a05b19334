"""10,000 requests through the scheduler on the null platform: each ends exactly once, no page is lost or shared."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict, deque
from dataclasses import replace
from typing import Any

import pytest

from sgcore.api import Pending, StartReport
from sgcore.engine.messages import Output, Request, SamplingParams
from sgcore.scheduler.scheduler import Limits, Scheduler
from sgcore.scheduler.step import StepPlan
from sgcore_null.platform import NullRunner
from tests.server.fake import make_plan

VOCABULARY = 97


class Machine(NullRunner):
    """A runner that checks what it is told: pages cover what is computed, and belong to one writer."""

    def __init__(self, limits: Limits, pages: int) -> None:
        plan = make_plan(
            page_size=limits.page_tokens,
            max_total_tokens=(pages - 1) * limits.page_tokens,
            max_running_requests=limits.max_rows,
        )
        super().__init__(replace(plan, hf_config={"vocab_size": VOCABULARY}, context_tokens=limits.context_tokens))
        self.load(StartReport())
        assert self.pages == pages
        self.limits = limits
        self.active: set[int] = set()

    def launch(self, step: StepPlan) -> Pending:
        self.active -= set(step.left)
        joined = {start.row for start in step.joined}
        assert not joined & self.active
        self.active |= joined
        assert step.tokens <= max(self.limits.step_tokens, len(step.decode) + self.limits.page_tokens)
        result = super().launch(step)
        self._check_writers(step)
        return result

    def _check_writers(self, step: StepPlan) -> None:
        """After the step: the pages it wrote are in no other row's table."""
        page_tokens = self.limits.page_tokens
        users: Counter[int] = Counter()
        for row in self.active:
            users.update(self.rows.page_table[row, : -(-int(self.rows.computed[row]) // page_tokens)].tolist())
        work = [(row, 1) for row in step.decode] + [(chunk.row, chunk.count) for chunk in step.chunks]
        assert len({row for row, _ in work}) == len(work)
        for row, count in work:
            assert row in self.active
            end = int(self.rows.computed[row])
            for place in range((end - count) // page_tokens, (end - 1) // page_tokens + 1):
                page = int(self.rows.page_table[row, place])
                assert 0 < page < self.pages and users[page] == 1
        assert all(self.rows.computed[c.row] == c.start + c.count for c in step.chunks)


def make_request(draw: random.Random, number: int, now: float) -> Request:
    """Some share long prefixes, some are as large as the pool allows, some have no time."""
    shared = [draw.randrange(4)] * draw.choice([0, 0, 8, 40])
    prompt = shared + [draw.randrange(VOCABULARY) for _ in range(draw.choice([1, 3, 17, 60]))]
    sampling = SamplingParams(max_new_tokens=draw.choice([0, 1, 5, 30]), min_new_tokens=0)
    deadline = now + draw.choice([0.0, 0.001, 0.01]) if draw.random() < 0.05 else None
    body = draw.choice(["", f"body{number // 30}"])
    return Request(f"r{number}", prompt, sampling, stop_ids=[draw.randrange(VOCABULARY)], deadline=deadline, body=body)


def check_invariants(scheduler: Scheduler) -> None:
    """Every page has exactly one owner: the free list, the tree (which checks its own) or one sequence."""
    private = [page for s in scheduler.sequences.values() if s.row >= 0 for page in s.pages[s.tree_pages :]]
    tree, pages = scheduler.tree, scheduler.pages
    assert not tree.check() and len(set(private)) == len(private)
    assert not any(map(pages.is_free, private)) and pages.violations == 0
    assert pages.free + tree.evictable_pages + tree.locked_pages + len(private) == pages.total
    assert len(scheduler.waiting) == sum(s.row < 0 for s in scheduler.sequences.values())
    assert scheduler._queued_tokens == sum(len(s.tokens) for s in scheduler.sequences.values() if s.row < 0)


def simulate(
    count: int, limits: Limits, pages: int, seed: int, check_every: int, run_ahead: int
) -> tuple[Scheduler, Counter[str]]:
    draw = random.Random(seed)
    scheduler, machine = Scheduler(limits, pages), Machine(limits, pages)
    ends: dict[str, list[Output]] = defaultdict(list)
    tokens: Counter[str] = Counter()
    admitted: set[str] = set()
    launched: deque[tuple[StepPlan, Pending]] = deque()
    number = step_number = 0
    requests: dict[str, Request] = {}
    while number < count or scheduler.has_work or launched:
        for _ in range(draw.choice([0, 0, 1, 4]) if number < count else 0):
            request = make_request(draw, number, time.monotonic())
            requests[request.rid] = request
            scheduler.add(request)
            number += 1
        if draw.random() < 0.05 and scheduler.sequences:
            scheduler.abort(draw.choice(list(scheduler.sequences)))
        plan = scheduler.plan()
        if plan is not None:
            admitted |= {sequence.rid for sequence in scheduler.sequences.values() if sequence.row >= 0}
            launched.append((plan, machine.launch(plan)))
        if launched and (plan is None or len(launched) > run_ahead):
            done, pending = launched.popleft()
            scheduler.complete(done, pending())
        outputs, scheduler.outputs = scheduler.outputs, []
        for output in outputs:
            assert not ends[output.rid], "an output after the end"
            tokens[output.rid] += len(output.tokens)
            if output.finish is not None:
                ends[output.rid].append(output)
        step_number += 1
        if step_number % check_every == 0:
            check_invariants(scheduler)
    check_invariants(scheduler)
    reasons = Counter(check_end(requests[rid], end, tokens[rid], rid in admitted) for rid, end in ends.items())
    assert sum(reasons.values()) == number
    return scheduler, reasons


def check_end(request: Request, ends: list[Output], tokens: int, was_admitted: bool) -> str:
    (end,) = ends
    most = request.sampling.max_new_tokens or 0
    assert tokens <= most
    if end.finish == "length" and not end.message:
        assert tokens == most
    assert end.status in ((200, 499, 504) if was_admitted else (200, 429, 499, 504))
    if end.status == 504:
        return "late"
    if end.status == 429:
        return "refused"
    return end.finish or ""


CASES: dict[str, dict[str, Any]] = {
    "roomy": {"pages": 2000},
    "tight": {"pages": 40},
    "lpm-tight": {"pages": 40, "policy": "lpm"},
    "short-queue": {"pages": 40, "max_queued_requests": 12},
    "no-cache": {"pages": 60, "uses_cache": False},
    "ahead": {"pages": 2000, "run_ahead": 1},
    "far-ahead-tight": {"pages": 40, "run_ahead": 4},
}


@pytest.mark.parametrize("case", CASES)
def test_every_request_ends_exactly_once(case: str) -> None:
    options = dict(CASES[case])
    pages, run_ahead = options.pop("pages"), options.pop("run_ahead", 0)
    limits = Limits(page_tokens=4, max_rows=12, step_tokens=48, context_tokens=200, **options)
    scheduler, reasons = simulate(2000, limits, pages, seed=11, check_every=50, run_ahead=run_ahead)
    assert all(reasons[end] for end in ("stop", "length", "abort", "late"))
    assert (reasons["refused"] > 0) == (case == "short-queue")
    assert scheduler.stats.retractions_total > 0
    assert scheduler.flush_cache() and scheduler.pages.free == scheduler.pages.total


def test_a_full_queue_refuses_with_429_and_never_what_was_admitted() -> None:
    scheduler = Scheduler(Limits(max_rows=1, max_queued_requests=2), pages=100)
    for number in range(4):
        scheduler.add(Request(f"r{number}", [1, 2, 3], SamplingParams()))
        scheduler.plan()
    (refused,) = scheduler.outputs
    assert (refused.rid, refused.status, refused.finish) == ("r3", 429, "abort")


def test_a_deadline_is_its_own_requests() -> None:
    scheduler = Scheduler(Limits(), pages=100)
    for deadline in (time.monotonic() + 0.01, None):
        scheduler.add(Request("same", [1, 2, 3], SamplingParams(), deadline=deadline))
        scheduler.abort("same") if deadline else time.sleep(0.02)
    assert scheduler.plan() is not None and "same" in scheduler.sequences


def test_a_prefix_that_is_being_computed_is_waited_for() -> None:
    limits = Limits(page_tokens=4, step_tokens=64, context_tokens=200)
    scheduler, machine = Scheduler(limits, pages=100), Machine(limits, 100)
    prefix = list(range(32))
    for number in range(3):
        scheduler.add(Request(f"r{number}", [*prefix, 50 + number, 60], SamplingParams(max_new_tokens=2)))
    first = scheduler.plan()
    assert first is not None and [start.row for start in first.joined] == [scheduler.sequences["r0"].row]
    scheduler.complete(first, machine.launch(first)())
    second = scheduler.plan()
    assert second is not None and [start.computed for start in second.joined] == [32, 32]


def test_lpm_cannot_starve_a_request() -> None:
    limits = Limits(page_tokens=4, max_rows=1, step_tokens=64, context_tokens=200, policy="lpm")
    scheduler, machine = Scheduler(limits, pages=400), Machine(limits, 400)
    hot = list(range(40))
    scheduler.add(Request("warm", [*hot, 1], SamplingParams(max_new_tokens=1)))
    scheduler.add(Request("cold", [90] * 50, SamplingParams(max_new_tokens=1)))
    number = 0
    while "cold" in scheduler.sequences and number < 1000:
        scheduler.add(Request(f"hot{number}", [*hot, 2, number % 7], SamplingParams(max_new_tokens=1)))
        number += 1
        plan = scheduler.plan()
        if plan is not None:
            scheduler.complete(plan, machine.launch(plan)())
    assert 2 < number < 200


@pytest.mark.parametrize("backlog, expected", [(1, 96), (26, 224), (52, 480)])
def test_prompts_beside_decode_rows_get_more_tokens_with_a_backlog(backlog: int, expected: int) -> None:
    limits = Limits(page_tokens=16, step_tokens=1024, mixed_tokens=128, context_tokens=400)
    scheduler, machine = Scheduler(limits, pages=800), Machine(limits, 800)
    scheduler.add(Request("decodes", [1, 2], SamplingParams(max_new_tokens=50)))
    plan = scheduler.plan()
    assert plan is not None
    scheduler.complete(plan, machine.launch(plan)())
    for number in range(backlog):
        scheduler.add(Request(f"r{number}", [number + 3] * 320, SamplingParams(max_new_tokens=1)))
    plan = scheduler.plan()
    assert plan is not None and plan.decode and sum(chunk.count for chunk in plan.chunks) == expected


def test_violations_of_pages_and_of_the_tree_are_shown() -> None:
    scheduler = Scheduler(Limits(), pages=100)
    scheduler.pages.release([5, 6])
    scheduler.tree.unlock(scheduler.tree.root)
    assert scheduler.snapshot().violations_total == 3
