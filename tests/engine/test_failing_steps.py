"""One of 64 running requests makes steps fail: it ends alone, and the others get the tokens that they would get."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers

from sgcore.config import Choices
from sgcore.constraints.progress import Progress
from sgcore.engine.core import EngineCore
from sgcore.engine.messages import Command, FromCore, Output, Outputs, Request, SamplingParams, ToCore
from sgcore.plugins.plan import Plan
from sgcore.plugins.resolve import resolve
from sgcore.runner.sampler import RowSampling, SamplingPlan
from sgcore.scheduler.step import StepPlan
from sgcore.testing.checkpoints import write_checkpoint

VOCABULARY, MARK = 199, 198
"""No prompt but the poisoned one has the token MARK, as its second."""
REQUESTS, TOKENS, JOINS_AT = 63, 10, 4
POISON = "poison"
MARKED = SamplingParams(max_new_tokens=TOKENS, min_p=0.125)
"""Nobody else has this `min_p`."""
Break = Callable[[EngineCore], Request]


class Inbox:
    """A channel: the good requests at first, the poisoned one while they run, and the end when all is done."""

    def __init__(self, good: list[Request]) -> None:
        self.turns: deque[list[ToCore]] = deque([[*good], *[[] for _ in range(JOINS_AT)]])
        self.core: EngineCore | None = None
        self.outputs: list[Output] = []

    def receive(self, timeout_s: float) -> Sequence[ToCore]:
        if self.turns:
            return self.turns.popleft()
        assert self.core is not None
        return [] if self.core.scheduler.has_work else [Command(0, "shutdown")]

    def send(self, message: FromCore) -> None:
        if isinstance(message, Outputs):
            self.outputs += message.items

    def tokens(self) -> dict[str, list[int]]:
        """Tokens of the requests that ended well."""
        ended = {output.rid for output in self.outputs if output.finish == "length"}
        return {rid: [t for o in self.outputs if o.rid == rid for t in o.tokens] for rid in ended}


def good_requests() -> list[Request]:
    """Greedy and drawn, short and long, some with a common beginning, log-probabilities or penalties."""
    draw = random.Random(3)
    shared = [draw.randrange(2, MARK) for _ in range(40)]
    made = []
    for number in range(REQUESTS):
        prompt = (shared if number % 3 == 0 else []) + [draw.randrange(2, MARK) for _ in range(1 + number % 23)]
        sampling = SamplingParams(
            max_new_tokens=TOKENS,
            temperature=float(number % 2),
            sampling_seed=number,
            frequency_penalty=0.5 * (number % 5 == 0),
        )
        wants = {"top_logprobs": 1, "logprob_start": 0} if number % 7 == 0 else {}
        made.append(Request(f"good-{number}", prompt, sampling, **wants))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=512,
    )
    folder = tmp_path_factory.mktemp("llama")
    write_checkpoint(config, folder)
    return folder


def make_plan(folder: Path, run_ahead: int) -> Plan:
    options = {"max_total_tokens": 8192, "skip_tokenizer_init": True, "dtype": "float32", "max_running_requests": 64}
    return resolve(Choices.of(model_path=str(folder), run_ahead=run_ahead, chunked_prefill_size=256, **options))


def run(plan: Plan, breaks: Break | None = None) -> tuple[Inbox, EngineCore]:
    inbox = Inbox(good_requests())
    core = inbox.core = EngineCore(plan, inbox)
    if breaks is not None:
        inbox.turns.append([breaks(core)])
    core.run()
    return inbox, core


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, list[int]]:
    inbox, _ = run(make_plan(folder, 0))
    return inbox.tokens()


def poison(**changes: Any) -> Request:
    request = Request(POISON, [5, MARK, 7], SamplingParams(max_new_tokens=TOKENS, temperature=0.0))
    return msgspec.structs.replace(request, **changes)


def rows_of(core: EngineCore) -> set[int]:
    return {s.row for rid, s in core.scheduler.sequences.items() if rid == POISON}


def fail_when(owner: Any, name: str, is_hit: Callable[..., bool], error: Exception) -> None:
    """Make a method raise where its arguments say so."""
    method = getattr(owner, name)

    def broken(*args: Any, **kwargs: Any) -> Any:
        if is_hit(*args, **kwargs):
            raise error
        return method(*args, **kwargs)

    setattr(owner, name, broken)


def an_id_that_nobody_checked(core: EngineCore) -> Request:
    core.scheduler.limits = replace(core.scheduler.limits, vocab_size=1 << 31)
    return poison(input_ids=[5, 5000])


def no_memory_in_its_prompt(core: EngineCore) -> Request:
    fail_in_kernel(core, lambda step: bool(rows_of(core) & {chunk.row for chunk in step.chunks}))
    return poison()


def no_memory_while_it_decodes(core: EngineCore) -> Request:
    fail_in_kernel(core, lambda step: bool(rows_of(core) & set(step.decode)))
    return poison()


def fail_in_kernel(core: EngineCore, is_hit: Callable[[StepPlan], bool]) -> None:
    """Make the steps that `is_hit` names run out of memory in the middle of the model."""
    runner, launch = core.runner, core.runner.launch
    layer = runner.model.model.layers[1]
    hits = [False]

    def launched(step: StepPlan) -> Any:
        hits[0] = is_hit(step)
        return launch(step)

    runner.launch = launched  # type: ignore[method-assign]
    fail_when(layer, "forward", lambda *args, **kwargs: hits[0], torch.OutOfMemoryError("out of memory"))


def an_exception_when_it_takes_its_row(core: EngineCore) -> Request:
    fail_when(core.runner.sampler, "join", lambda start: start.tokens[1:2] == [MARK], ValueError("bad parameter"))
    return poison()


def an_exception_in_the_sampler(core: EngineCore) -> Request:
    def is_hit(logits: Any, plan: SamplingPlan, masks: Any = None) -> bool:
        return any(map(is_marked, plan.states))

    fail_when(core.runner.sampler, "choose", is_hit, ZeroDivisionError("division by zero"))
    return poison(sampling=MARKED)


def an_exception_in_its_results(core: EngineCore) -> Request:
    """Raised where the step is waited for, with later steps on their way already."""
    launch = core.runner.launch

    def launched(step: Any) -> Any:
        pending = launch(step)
        if not rows_of(core) & set(step.decode):
            return pending
        return lambda: (_ for _ in ()).throw(IndexError("no such entry"))

    core.runner.launch = launched  # type: ignore[method-assign]
    return poison()


def an_exception_in_its_prompts_logprobs(core: EngineCore) -> Request:
    fail_when(
        core.runner,
        "prompt_logprobs",
        lambda work, hidden: bool(rows_of(core) & {row for row, _ in work.prompts}),
        RuntimeError("no such position"),
    )
    return poison(top_logprobs=3, logprob_start=0)


def an_array_too_large_for_a_step(core: EngineCore) -> Request:
    fail_when(core.runner.rows, "_join", lambda start: start.tokens[1:2] == [MARK], ValueError("could not broadcast"))
    return poison()


def logits_that_are_no_numbers(core: EngineCore) -> Request:
    sampler, choose = core.runner.sampler, core.runner.sampler.choose

    def broken(logits: torch.Tensor, plan: SamplingPlan, masks: Any = None) -> torch.Tensor:
        logits = logits.clone()
        logits[[place for place, state in enumerate(plan.states) if is_marked(state)], 11] = float("nan")
        return choose(logits, plan, masks)

    sampler.choose = broken
    return poison(sampling=MARKED)


def is_marked(state: RowSampling) -> bool:
    return state.sampling.min_p == MARKED.min_p


class Rules:
    """A grammar of the test's and its only matcher: takes anything, and allows whatever its mask says."""

    is_complete = has_failed = False

    def __init__(self, **raises: Exception) -> None:
        self.raises = raises
        self.forces: list[int] = []
        self.words = -1

    def start(self) -> Rules:
        return self

    def _raise(self, name: str) -> None:
        if name in self.raises:
            raise self.raises[name]

    def accept(self, tokens: Sequence[int]) -> None:
        self._raise("accept")

    def forced(self) -> list[int]:
        self._raise("forced")
        return self.forces

    def fill(self, mask: Any) -> None:
        self._raise("fill")
        mask[:] = self.words


def constrained(core: EngineCore, rules: Rules) -> Request:
    core._take = (  # type: ignore[method-assign]
        lambda request: core.scheduler.add(request, Progress(rules) if request.rid == POISON else None)
    )
    return poison()


def a_constraint_that_takes_no_token(core: EngineCore) -> Request:
    return constrained(core, Rules(accept=KeyError("state")))


def a_constraint_without_a_mask(core: EngineCore) -> Request:
    return constrained(core, Rules(fill=MemoryError()))


def a_constraint_that_raises_when_it_is_added(core: EngineCore) -> Request:
    return constrained(core, Rules(forced=RecursionError("too deep")))


def a_constraint_that_wants_an_unknown_token(core: EngineCore) -> Request:
    rules = Rules()
    rules.forces = [5000, 5001, 5002, 5003, 5004, 5005]
    return constrained(core, rules)


def a_mask_that_allows_nothing(core: EngineCore) -> Request:
    rules = Rules()
    rules.words = 0
    return constrained(core, rules)


def a_request_that_cannot_be_added(core: EngineCore) -> Request:
    return poison(stop_ids=[[]])


WAYS = [
    an_id_that_nobody_checked,
    no_memory_in_its_prompt,
    no_memory_while_it_decodes,
    an_exception_when_it_takes_its_row,
    an_exception_in_the_sampler,
    an_exception_in_its_results,
    an_exception_in_its_prompts_logprobs,
    an_array_too_large_for_a_step,
    logits_that_are_no_numbers,
    a_constraint_that_takes_no_token,
    a_constraint_without_a_mask,
    a_constraint_that_raises_when_it_is_added,
    a_constraint_that_wants_an_unknown_token,
    a_mask_that_allows_nothing,
    a_request_that_cannot_be_added,
]


if torch.cuda.is_available():
    WAYS.remove(an_id_that_nobody_checked)  # such an id loses the device, and this process with it


@pytest.mark.parametrize(
    "way, run_ahead",
    [(way, 3) for way in WAYS] + [(no_memory_in_its_prompt, 0), (an_exception_in_its_results, 0)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_63_of_64_requests_go_on(folder: Path, expected: dict[str, list[int]], way: Break, run_ahead: int) -> None:
    inbox, core = run(make_plan(folder, run_ahead), way)
    (end,) = [output for output in inbox.outputs if output.rid == POISON and output.finish is not None]
    assert (end.finish, end.status) == ("abort", 500) and end.message
    assert len(expected) == REQUESTS and inbox.tokens() == expected
    scheduler = core.scheduler
    assert scheduler.pages.free + scheduler.tree.evictable_pages == scheduler.pages.total and not scheduler.tree.check()
