"""Who computes what in the next step.

A step has a token budget. Rows that decode spend one token each, rows in the middle of their prompt go on, and what is
left admits waiting requests; there are no prefill or decode phases. See `docs/explanation/architecture.md`.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

from sgcore.cache.radix import Match
from sgcore.constraints.progress import Progress
from sgcore.engine.messages import Output, Request, Stats
from sgcore.errors import ConstraintError
from sgcore.scheduler.isolation import Isolation
from sgcore.scheduler.pins import Pins
from sgcore.scheduler.policy import POLICIES
from sgcore.scheduler.prefixes import Prefixes
from sgcore.scheduler.sequence import Sequence
from sgcore.scheduler.shares import MAX_GIVEN_UP, Shares
from sgcore.scheduler.step import ChunkPlan, RowStart, StepPlan, StepResult

FIRST_GROWTH_RATIO = 0.7
LEAST_GROWTH_RATIO = 0.1
GROWTH_RATIO_DECAY = 0.998
GROWTH_RATIO_STEP = 0.1
MOST_GROWTH = 4096
"""Admission expects a row to use this share of the tokens it may still ask for (SGLang's new_token_ratio)."""
MIXED_STEPS = 32
"""Prompts that would take twice as many steps beside decode rows get twice as many tokens in a step, and so on."""
ROUNDED_TOKENS = 32
"""Prompt tokens come in multiples of this: there are fewer sizes of step for a device to prepare."""


@dataclass(frozen=True)
class Limits:
    """The scheduler's knobs; every one comes from the plan."""

    page_tokens: int = 16
    max_rows: int = 256
    step_tokens: int = 512
    mixed_tokens: int = 512
    """Tokens of a step in which rows decode and prompts go on: bounds the time between tokens."""
    context_tokens: int = 4096
    max_queued_requests: int = 4096
    max_queued_tokens: int = 4_000_000
    policy: str = "fcfs"
    uses_cache: bool = True
    vocab_size: int = 1 << 31


@dataclass(frozen=True, slots=True)
class Launched:
    """A step whose result has not come back, and whose its rows were."""

    step: StepPlan
    owners: list[tuple[Sequence, int]]
    """Each row's sequence and its epoch, in the order of `StepPlan.decode` and `StepPlan.chunks`."""


class Scheduler:
    """Requests in, step plans out; step results in, outputs out. Knows no tensor.

    `plan` may be called again before `complete` of the last plan: a plan counts as computed at once, since the device
    does the steps in order. For the same reason a page that is freed may be given out at once.
    """

    def __init__(self, limits: Limits, pages: int) -> None:
        self.limits = limits
        self.prefixes = Prefixes(pages, limits.page_tokens, limits.uses_cache)
        self.pages, self.tree = self.prefixes.pages, self.prefixes.tree
        self.pins = Pins(self.tree, self.pages.total)
        self.waiting = POLICIES[limits.policy](lambda sequence: self.prefixes.match(sequence).tokens)
        self.shares = Shares()
        self.sequences: dict[str, Sequence] = {}
        self.decoding: dict[int, Sequence] = {}
        self.prefilling: dict[int, Sequence] = {}
        self.outputs: list[Output] = []
        self.stats = Stats(total_tokens=self.pages.total * limits.page_tokens)
        self._free_rows = list(range(limits.max_rows - 1, -1, -1))
        self._deadlines: list[tuple[float, str]] = []
        self._step = StepPlan(0)
        self._steps = 0
        self._launched: dict[int, Launched] = {}
        self._isolation = Isolation()
        self._left: list[int] = []
        self._queued_tokens = 0
        self._admissions = 0
        self._is_full = False
        self._growth_ratio = FIRST_GROWTH_RATIO

    # -- requests come and go ------------------------------------------------------------------------------------

    def add(self, request: Request, constraint: Progress | None = None) -> None:
        """Queue a request, or refuse it with an output that says why."""
        refusal = self._refusal(request)
        if refusal is not None:
            self.outputs.append(Output(request.rid, [], "abort", message=refusal[1], status=refusal[0]))
            return
        prompt = len(request.input_ids)
        most = self.limits.context_tokens - prompt
        wanted = request.sampling.max_new_tokens
        limit = prompt + (most if wanted is None else min(wanted, most))
        limit = min(limit, self.pages.total * self.limits.page_tokens)
        stops = frozenset(request.stop_ids)
        sequence = Sequence(request, list(request.input_ids), prompt, limit, stops, constraint=constraint)
        self.sequences[request.rid] = sequence
        self.waiting.append(sequence)
        self._queued_tokens += prompt
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.rid))
        if constraint is not None and prompt < limit:
            self._begin(sequence, constraint)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        prompt, limits = len(request.input_ids), self.limits
        pool = self.pages.total * limits.page_tokens
        if request.rid in self.sequences:
            return 400, f"request id {request.rid!r} is in use"
        if not 0 < prompt < limits.context_tokens:
            return 400, f"the prompt has {prompt} tokens; the context length is {limits.context_tokens}"
        if prompt >= pool:
            return 400, f"the prompt has {prompt} tokens; the KV cache holds {pool}"
        if not 0 <= min(request.input_ids) <= max(request.input_ids) < limits.vocab_size:
            return 400, f"the prompt has a token id outside of the model's vocabulary of {limits.vocab_size}"
        if len(self.waiting) >= limits.max_queued_requests:
            return 429, f"{limits.max_queued_requests} requests are waiting (max_queued_requests)"
        if self.waiting and self._queued_tokens + prompt > limits.max_queued_tokens:
            return (
                429,
                f"{self._queued_tokens} prompt tokens wait; the most is {limits.max_queued_tokens} (max_queued_tokens)",
            )
        return None

    def abort(self, rid: str, message: str = "aborted", status: int = 499) -> None:
        """End a request wherever it is; an unknown id has ended already."""
        sequence = self.sequences.get(rid)
        if sequence is not None:
            self._end(sequence, Output(rid, [], "abort", message=message, status=status))

    def flush_cache(self) -> bool:
        """Forget all cached prefixes, pinned ones too; False while requests run."""
        if self.sequences:
            return False
        self.pins.clear()
        return self.tree.reset()

    def fail(self, step: StepPlan, message: str) -> None:
        """A step raised: run its requests apart until the one that it fails for is known and ended. The others go on.

        Results of other launched steps must not be given any more: what they computed is computed again.
        """
        culprit = self._isolation.accuse(self._in_step(self._launched[step.number]))
        self._roll_back()
        if culprit is not None:
            self.abort(culprit.rid, message, 500)

    def _in_step(self, launched: Launched) -> set[Sequence]:
        """Requests that a step computes or takes into a row, and that still have it."""
        rows = {**self.decoding, **self.prefilling}
        joined = {rows[start.row] for start in launched.step.joined if start.row in rows}
        return joined | {sequence for sequence, epoch in launched.owners if sequence.epoch == epoch}

    def _roll_back(self) -> None:
        """Forget what no completed step has confirmed; every row joins anew, with all of its pages and tokens."""
        lost = [launched.step for launched in self._launched.values()]
        self._launched.clear()
        self._left += [row for step in lost for row in step.left]
        copied = {target for step in lost for _, target in step.copies}
        for sequence in [*self.decoding.values(), *self.prefilling.values()]:
            if not copied.isdisjoint(sequence.pages):
                sequence.confirmed = sequence.tree_pages * self.limits.page_tokens
            self._rejoin(sequence)

    def snapshot(self) -> Stats:
        """The present load."""
        stats, page = self.stats, self.limits.page_tokens
        stats.running = len(self.decoding) + len(self.prefilling)
        stats.queued, stats.queued_tokens = len(self.waiting), self._queued_tokens
        stats.evictable_tokens = self.tree.evictable_pages * page
        stats.cached_tokens = self.tree.total_pages * page
        stats.used_tokens = (self.pages.total - self.prefixes.available) * page
        stats.violations_total = self.pages.violations + self.tree.violations
        return copy(stats)

    @property
    def has_work(self) -> bool:
        return bool(self.sequences)

    def next_deadline(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def _end(self, sequence: Sequence, output: Output) -> None:
        sequence.is_ended = True
        del self.sequences[sequence.rid]
        if sequence.row >= 0:
            self._release(sequence)
        else:
            self.waiting.remove(sequence)
            self._queued_tokens -= len(sequence.tokens)
        output.cached_tokens = sequence.cached_tokens
        output.retractions = sequence.retractions
        self.outputs.append(output)

    def _release(self, sequence: Sequence) -> None:
        """Take the row back; what is computed stays in the tree, the rest of the pages are free."""
        self.prefixes.release(sequence)
        self.decoding.pop(sequence.row, None)
        self.prefilling.pop(sequence.row, None)
        self.shares.give_row(sequence)
        self._free_rows.append(sequence.row)
        self._left.append(sequence.row)
        sequence.row = -1
        sequence.computed = sequence.confirmed = sequence.pending = 0
        sequence.rejoins = False
        sequence.epoch += 1
        self._is_full = False

    # -- planning a step -----------------------------------------------------------------------------------------

    def plan(self) -> StepPlan | None:
        """The next step; None if there is nothing to compute, or the results of launched ones have to come first."""
        self._abort_late()
        self._isolation.free()
        if self._isolation.is_active and self._launched:
            return None
        step = self._fill_step()
        if step is None and self._isolation.is_active:
            self._isolation.acquit()
            return self.plan()
        return step

    def _fill_step(self) -> StepPlan | None:
        self._step = step = StepPlan(self._steps, pages=self.prefixes.take_moved())
        may_run = self._isolation.may_run
        self._give_way()
        self._grow_rows()
        self._rejoin_rows()
        step.decode = [row for row, sequence in self.decoding.items() if sequence.can_decode and may_run(sequence)]
        budget = self._prefill_budget(len(step.decode))
        for sequence in sorted(filter(may_run, self.prefilling.values()), key=lambda s: not s.output_tokens):
            budget -= self._add_chunk(sequence, budget)
        takes_more = self._free_rows and not self._is_full and not self._isolation.is_active
        if budget > 0 and takes_more and self.waiting:
            self._admit(budget)
        if not step.decode and not step.chunks:
            self.prefixes.put_back(step.pages)
            return None
        step.left, self._left = self._left, []
        self._launch(step)
        return step

    def _prefill_budget(self, decode_rows: int) -> int:
        """Prompt tokens of a step: a page at least, so that prompts advance whatever decodes.

        Beside decode rows they are few, so that tokens keep a steady pace, and more where many prompt tokens wait.
        """
        limits = self.limits
        least, most = min(limits.page_tokens, limits.step_tokens), limits.step_tokens
        if decode_rows:
            backlog = self._queued_tokens + sum(s.target - s.computed for s in self.prefilling.values())
            octaves = max(backlog // (MIXED_STEPS * limits.mixed_tokens), 1).bit_length() - 1
            most = min(most, limits.mixed_tokens << octaves)
            least = max(least, min(limits.mixed_tokens, most) // 2)
        budget = max(most - decode_rows, least)
        return budget // ROUNDED_TOKENS * ROUNDED_TOKENS or budget

    def _launch(self, step: StepPlan) -> None:
        """Count a plan as computed, and remember whose its results are."""
        owners = [self.decoding[row] for row in step.decode]
        for place, sequence in enumerate(owners):
            sequence.computed += 1
            sequence.pending += 1
            if sequence.constraint is not None and sequence.constraint.is_active:
                step.masked.append(place)
        samples = len(owners)
        for chunk in step.chunks:
            sequence = self.prefilling[chunk.row]
            sequence.computed += chunk.count
            owners.append(sequence)
            if chunk.is_last:
                sequence.pending += 1
                self.decoding[chunk.row] = self.prefilling.pop(chunk.row)
                if sequence.constraint is not None and sequence.constraint.is_active:
                    step.masked.append(samples)
                samples += 1
        self._launched[step.number] = Launched(step, [(sequence, sequence.epoch) for sequence in owners])
        self._steps += 1

    def _abort_late(self) -> None:
        now = time.monotonic()
        self.pins.expire(now)
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, rid = heapq.heappop(self._deadlines)
            sequence = self.sequences.get(rid)
            if sequence is not None and sequence.request.deadline == deadline:  # else a later one has taken its id
                self.abort(rid, "the request's deadline has passed", 504)

    def _grow_rows(self) -> None:
        """A page for every decoding row whose last one is full."""
        page = self.limits.page_tokens
        may_run = self._isolation.may_run
        rows = [s for s in self.decoding.values() if s.can_decode and may_run(s)]
        needy = [s for s in rows if s.computed == len(s.pages) * page]
        for sequence in needy:
            if self._grow(sequence, 1):
                self._step.pages.append((sequence.row, len(sequence.pages) - 1, sequence.pages[-1:]))

    def _grow(self, sequence: Sequence, count: int) -> bool:
        """More pages for a row; retract the newest rows where there are none. False if it was retracted itself."""
        while sequence.row >= 0:
            new = self.prefixes.allocate(count)
            if new is not None:
                sequence.pages += new
                return True
            self._retract_newest()
        return False

    def _give_way(self) -> None:
        """Where requests wait for room, bodies with two rows more than theirs give up their newest rows.

        A row for each of them; where pages are short, one, since nobody knows how many it takes.
        """
        is_short = self._is_full or not self._free_rows
        if not (is_short and self.waiting and self.shares.largest(2)) or self._isolation.is_active:
            return
        turns = self.shares.in_turn(self.waiting.oldest())
        for rows, _ in turns[: 1 if self._is_full else MAX_GIVEN_UP]:
            victim = self._newest_of_largest(rows + 2)
            if victim is None:
                return
            self._retract(victim)

    def _newest_of_largest(self, least: int) -> Sequence | None:
        """The newest row of the body with the most rows, if it has `least` rows."""
        body = self.shares.largest(least)
        rows = [*self.decoding.values(), *self.prefilling.values()]
        return max((s for s in rows if s.body == body), key=lambda s: s.admitted, default=None)

    def _retract_newest(self) -> None:
        """The newest row, or that of a larger body, goes back to the queue; one that is alone and too large ends."""
        rows = [*self.decoding.values(), *self.prefilling.values()]
        newest = max(rows, key=lambda s: s.admitted)
        if len(rows) == 1 and self.pins.clear():
            return
        if len(rows) == 1:
            self._end(newest, Output(newest.rid, [], "length", message="the KV cache is full"))
            return
        self._retract(self._newest_of_largest(self.shares.rows(newest) + 2) or newest)
        self._growth_ratio = min(1.0, self._growth_ratio + GROWTH_RATIO_STEP)
        self._is_full = True

    def _retract(self, victim: Sequence) -> None:
        """A row goes back to the head of the queue with all of its tokens."""
        self._step.pages = [entry for entry in self._step.pages if entry[0] != victim.row]
        self._step.joined = [start for start in self._step.joined if start.row != victim.row]
        self._release(victim)
        victim.retractions += 1
        self.stats.retractions_total += 1
        self.waiting.append_front(victim)
        self._queued_tokens += len(victim.tokens)

    def _add_chunk(self, sequence: Sequence, budget: int) -> int:
        """Tokens of a prefilling row for this step."""
        count = min(sequence.target - sequence.computed, budget)
        if count > 0:
            is_last = sequence.computed + count == sequence.target
            self._step.chunks.append(ChunkPlan(sequence.row, sequence.computed, count, is_last))
        return max(count, 0)

    def _admit(self, budget: int) -> None:
        """Start requests; a row is kept for each of a smaller body that waits for a prefix to be computed."""
        growth = self._expected_growth()
        kept: list[tuple[int, str]] = []
        for rows, sequence in self.shares.in_turn(self.waiting.candidates()):
            match = self.prefixes.match(sequence)
            prefix = self.prefixes.next_of(sequence, match)
            if self.prefixes.is_in_flight(prefix):
                kept.append((rows, sequence.body))
                continue
            if len(self._free_rows) <= sum(fewer < rows and body != sequence.body for fewer, body in kept):
                return
            is_alone = not (self.decoding or self.prefilling)
            while not self._start(sequence, match, growth):
                if not (is_alone and self.pins.clear()):
                    self._is_full = not is_alone
                    return
            self.prefixes.claim(prefix, sequence)
            growth += self._growth_of(sequence)
            budget -= self._add_chunk(sequence, budget)
            if budget <= 0 or not self._free_rows:
                return

    def _expected_growth(self) -> float:
        """Tokens that the running rows are expected to add."""
        rows = [*self.decoding.values(), *self.prefilling.values()]
        self._growth_ratio = max(LEAST_GROWTH_RATIO, self._growth_ratio * GROWTH_RATIO_DECAY)
        return sum(map(self._growth_of, rows))

    def _growth_of(self, sequence: Sequence) -> float:
        return min(sequence.limit - len(sequence.tokens), MOST_GROWTH) * self._growth_ratio

    def _start(self, sequence: Sequence, match: Match, growth: float) -> bool:
        """Give a waiting request its row and the pages of all its tokens; False if they don't fit."""
        page = self.limits.page_tokens
        total = len(sequence.tokens)
        needed = total // page + 1 - len(match.pages)
        self.tree.lock(match.node)
        headroom = int(growth) // page
        fits = needed + headroom <= self.prefixes.available
        pages = self.prefixes.allocate(needed) if fits else None
        if pages is None:
            self.tree.unlock(match.node)
            return False
        sequence.node, sequence.tree_pages, sequence.pages = match.node, len(match.pages), match.pages + pages
        sequence.computed = sequence.confirmed = self._copy_partial(match, pages)
        self._take_row(sequence)
        return True

    def _copy_partial(self, match: Match, pages: list[int]) -> int:
        """Reuse the matching head of a page that belongs to another prefix, by copying it. Returns tokens in cache."""
        if match.partial_page is None or not match.partial_tokens:
            return match.tokens
        self._step.copies.append((match.partial_page, pages[0]))
        return match.tokens + match.partial_tokens

    def _take_row(self, sequence: Sequence) -> None:
        tokens = sequence.tokens
        if not sequence.retractions:
            sequence.cached_tokens = sequence.computed
            self.stats.prompt_tokens_total += len(tokens)
            self.stats.prefix_hit_tokens_total += sequence.computed
        sequence.row = self._free_rows.pop()
        sequence.target = len(tokens)
        self._admissions += 1
        sequence.admitted = self._admissions
        self.prefilling[sequence.row] = sequence
        self.shares.take_row(sequence)
        self.waiting.remove(sequence)
        self._queued_tokens -= len(tokens)
        self._step.joined.append(self._row_start(sequence))

    def _row_start(self, sequence: Sequence) -> RowStart:
        request = sequence.request
        return RowStart(
            sequence.row,
            list(sequence.tokens),
            sequence.prompt_tokens,
            sequence.computed,
            list(sequence.pages),
            request.sampling,
            request.stop_ids,
            request.logprob_start if not sequence.output_tokens else -1,
            request.top_logprobs,
        )

    # -- taking a step's result ----------------------------------------------------------------------------------

    def complete(self, step: StepPlan, result: StepResult) -> None:
        """Advance every row of the step by what it computed and sampled; rows given up meanwhile are passed over."""
        tokens, owners = iter(result.tokens), iter(self._launched.pop(step.number).owners)
        for _, (sequence, epoch), token in zip(step.decode, owners, tokens, strict=False):
            if sequence.epoch == epoch:
                sequence.confirmed += 1
                self._accept(sequence, token, result)
        for chunk, (sequence, epoch) in zip(step.chunks, owners, strict=True):
            token = next(tokens) if chunk.is_last else -1
            if sequence.epoch == epoch:
                sequence.confirmed += chunk.count
                self._complete_chunk(sequence, chunk, token, result)
        self.stats.step += 1

    def _complete_chunk(self, sequence: Sequence, chunk: ChunkPlan, token: int, result: StepResult) -> None:
        self.prefixes.share(sequence)
        if chunk.is_last:
            self.prefixes.unclaim(sequence)
            self._accept(sequence, token, result)
        elif chunk.row in result.prompt_logprobs:
            self.outputs.append(Output(sequence.rid, [], prompt_logprobs=result.prompt_logprobs[chunk.row]))

    def _accept(self, sequence: Sequence, token: int, result: StepResult) -> None:
        """Append a sampled token and see whether it is the last."""
        row = sequence.row
        sequence.pending -= 1
        if token < 0:
            self.abort(sequence.rid, "the model's logits are not finite", 500)
            return
        output = Output(sequence.request.rid, [])
        if result.logprobs and row in result.logprobs:
            output.logprobs = [result.logprobs[row]]
        if result.prompt_logprobs and row in result.prompt_logprobs:
            output.prompt_logprobs = result.prompt_logprobs[row]
        if len(sequence.tokens) >= sequence.limit:
            output.logprobs, output.finish = [], "length"
        else:
            self._append(sequence, token, output)
            if sequence.constraint is not None and output.finish != "stop":
                self._follow(sequence, sequence.constraint, output)
        self._emit(sequence, output)

    def _append(self, sequence: Sequence, token: int, output: Output) -> None:
        """Append a token and see whether it is the last."""
        sequence.tokens.append(token)
        output.tokens.append(token)
        self.stats.generated_tokens_total += 1
        if token in sequence.stop_ids and sequence.output_tokens >= sequence.request.sampling.min_new_tokens:
            output.finish, output.matched = "stop", token
        elif len(sequence.tokens) >= sequence.limit:
            output.finish = "length"

    def _emit(self, sequence: Sequence, output: Output) -> None:
        if output.finish is not None:
            self._end(sequence, output)
        else:
            output.cached_tokens = sequence.cached_tokens
            self.outputs.append(output)

    # -- rows whose output is constrained ------------------------------------------------------------------------

    def masked(self, step: StepPlan) -> list[Sequence | None]:
        """Whose the step's masked rows are; None for one that was given up since the launch."""
        owners = self._launched[step.number].owners
        decoding = len(step.decode)
        last = [owner for chunk, owner in zip(step.chunks, owners[decoding:], strict=True) if chunk.is_last]
        samples = owners[:decoding] + last
        found = [samples[place] for place in step.masked]
        return [sequence if sequence.epoch == epoch else None for sequence, epoch in found]

    def _begin(self, sequence: Sequence, constraint: Progress) -> None:
        """Take what every output of this constraint begins with."""
        output = Output(sequence.rid, [])
        self._take_forced(sequence, constraint, constraint.begin, output)
        self._queued_tokens += sequence.output_tokens
        if output.tokens or output.finish is not None:
            self._emit(sequence, output)

    def _follow(self, sequence: Sequence, constraint: Progress, output: Output) -> None:
        """Tell the constraint of the newest token, and take at once what has to follow it."""
        token, known, was_active = sequence.tokens[-1], len(sequence.tokens), constraint.is_active
        self._take_forced(sequence, constraint, lambda: constraint.advance(token, sequence.pending), output)
        is_late = constraint.is_active and not was_active and sequence.pending > 0
        if output.finish is None and (len(sequence.tokens) > known or is_late):
            self._rejoin(sequence)

    def _take_forced(
        self, sequence: Sequence, constraint: Progress, ask: Callable[[], list[int]], output: Output
    ) -> None:
        """Append the tokens that the constraint answers with; it may also end the output."""
        try:
            forced = ask()
            is_complete = constraint.is_complete
        except ConstraintError as error:
            output.finish, output.message, output.status = "abort", str(error), error.status
            return
        for token in forced:
            if output.finish is not None:
                return
            if not 0 <= token < self.limits.vocab_size:
                output.finish, output.status = "abort", 500
                output.message = f"the constraint continues with token {token}, which the model doesn't have"
                return
            self._append(sequence, token, output)
        if is_complete:
            output.finish = "stop"

    def _rejoin(self, sequence: Sequence) -> None:
        """Go on from the newest computed token in a chunk; what launched steps sample for the row is dropped."""
        sequence.epoch += 1
        sequence.pending, sequence.computed = 0, sequence.confirmed
        sequence.target = len(sequence.tokens)
        sequence.rejoins = True
        self.decoding.pop(sequence.row, None)
        self.prefilling[sequence.row] = sequence

    def _rejoin_rows(self) -> None:
        for sequence in [s for s in self.prefilling.values() if s.rejoins and self._isolation.may_run(s)]:
            missing = len(sequence.tokens) // self.limits.page_tokens + 1 - len(sequence.pages)
            if sequence.row >= 0 and self._grow(sequence, max(missing, 0)):
                self._step.joined.append(self._row_start(sequence))
            sequence.rejoins = False
