"""Steps that fail, in simulations: whose fault it is ends alone, everybody else gets all tokens, no page is lost."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable

import pytest

from sgcore.api import Pending
from sgcore.engine.messages import Output, Request, SamplingParams
from sgcore.scheduler.scheduler import Limits, Scheduler
from sgcore.scheduler.step import StepPlan
from tests.scheduler.test_simulation import VOCABULARY, Machine, check_invariants

CURSE = VOCABULARY - 1
"""A prompt that ends with it is cursed."""
Fails = Callable[[StepPlan, set[int]], bool]


class Fragile(Machine):
    """A runner whose steps fail where they are told to, before or after their changes were applied."""

    def __init__(self, limits: Limits, pages: int, fails: Fails) -> None:
        super().__init__(limits, pages)
        self.fails = fails
        self.cursed: set[int] = set()

    def launch(self, step: StepPlan) -> Pending:
        self.cursed -= {start.row for start in step.joined}
        self.cursed |= {start.row for start in step.joined if start.tokens[start.prompt_tokens - 1] == CURSE}
        if not self.fails(step, self.cursed):
            return super().launch(step)
        if step.number % 2:
            super().launch(step)
        # Whatever of the step was applied: every row has to join anew.
        self.active.clear()
        raise RuntimeError("cursed")


def computed(step: StepPlan) -> set[int]:
    return {*step.decode, *(chunk.row for chunk in step.chunks)}


def always(step: StepPlan, cursed: set[int]) -> bool:
    return bool(cursed & computed(step))


def when_it_decodes(step: StepPlan, cursed: set[int]) -> bool:
    return bool(cursed & set(step.decode))


def when_it_joins(step: StepPlan, cursed: set[int]) -> bool:
    return bool(cursed & {start.row for start in step.joined})


def make_requests(draw: random.Random, count: int, cursed_share: float) -> list[Request]:
    made = []
    for number in range(count):
        shared = [draw.randrange(4)] * draw.choice([0, 0, 8, 40])
        prompt = shared + [draw.randrange(CURSE) for _ in range(draw.choice([1, 3, 17, 60]))]
        if draw.random() < cursed_share:
            prompt.append(CURSE)
        made.append(Request(f"r{number}", prompt, SamplingParams(max_new_tokens=draw.choice([2, 5, 30]))))
    return made


def simulate(requests: list[Request], limits: Limits, pages: int, fails: Fails, run_ahead: int) -> list[list[Output]]:
    """The outputs of each request; the loop is the core's."""
    draw = random.Random(1)
    scheduler, machine = Scheduler(limits, pages), Fragile(limits, pages, fails)
    found: dict[str, list[Output]] = defaultdict(list)
    launched: deque[tuple[StepPlan, Pending]] = deque()
    coming = deque(requests)
    turns = 0
    while coming or scheduler.has_work or launched:
        turns += 1
        assert turns < 100 * len(requests), "nothing goes on"
        for _ in range(draw.choice([0, 0, 1, 4])):
            if coming:
                scheduler.add(coming.popleft())
        plan = scheduler.plan()
        if plan is not None:
            try:
                launched.append((plan, machine.launch(plan)))
            except RuntimeError as error:
                launched.clear()
                scheduler.fail(plan, str(error))
        if launched and (plan is None or len(launched) > run_ahead):
            done, pending = launched.popleft()
            scheduler.complete(done, pending())
        for output in scheduler.outputs:
            found[output.rid].append(output)
        scheduler.outputs = []
        check_invariants(scheduler)
    assert scheduler.flush_cache() and scheduler.pages.free == scheduler.pages.total
    return [found[request.rid] for request in requests]


def expected(request: Request) -> list[int]:
    """The null platform's token is its position."""
    begin = len(request.input_ids)
    return [position % VOCABULARY for position in range(begin, begin + (request.sampling.max_new_tokens or 0))]


@pytest.mark.parametrize("run_ahead", [0, 3])
@pytest.mark.parametrize("pages", [40, 2000], ids=["tight", "roomy"])
@pytest.mark.parametrize("fails", [always, when_it_decodes, when_it_joins])
def test_the_cursed_end_and_the_others_get_all_tokens(fails: Fails, pages: int, run_ahead: int) -> None:
    limits = Limits(page_tokens=4, max_rows=12, step_tokens=48, context_tokens=200, vocab_size=VOCABULARY)
    requests = make_requests(random.Random(2), 300, cursed_share=0.05)
    ends = simulate(requests, limits, pages, fails, run_ahead)
    for request, outputs in zip(requests, ends, strict=True):
        assert [output.finish is not None for output in outputs] == [False] * (len(outputs) - 1) + [True]
        if outputs[-1].status == 500:
            assert request.input_ids[-1] == CURSE and outputs[-1].message == "cursed"
        else:
            # What fails as a decode step may be computed as a chunk, and end there.
            assert request.input_ids[-1] != CURSE or (fails is when_it_decodes)
            assert [token for output in outputs for token in output.tokens] == expected(request)
    assert any(outputs[-1].status == 500 for outputs in ends)


@pytest.mark.parametrize("run_ahead", [0, 3])
def test_failures_that_are_nobodys_end_nobody(run_ahead: int) -> None:
    """Now and then a step fails, and each with more than eight rows: halves of it don't."""
    draw = random.Random(7)

    def fails(step: StepPlan, cursed: set[int]) -> bool:
        rows = len(computed(step))
        return rows > 8 or (rows > 1 and draw.random() < 0.05)

    limits = Limits(page_tokens=4, max_rows=12, step_tokens=48, context_tokens=200)
    requests = make_requests(random.Random(3), 100, cursed_share=0.0)
    for request, outputs in zip(requests, simulate(requests, limits, 2000, fails, run_ahead), strict=True):
        assert [token for output in outputs for token in output.tokens] == expected(request)


def test_a_culprit_is_found_in_few_steps() -> None:
    limits = Limits(max_rows=64, step_tokens=1024, context_tokens=200)
    requests = make_requests(random.Random(4), 63, cursed_share=0.0)
    requests.append(Request("cursed", [1, 2, CURSE], SamplingParams(max_new_tokens=4)))
    failed = []

    def fails(step: StepPlan, cursed: set[int]) -> bool:
        failed.extend([step.number] if cursed & computed(step) else [])
        return bool(cursed & computed(step))

    simulate(requests, limits, 2000, fails, 0)
    assert 1 <= len(failed) <= 7
