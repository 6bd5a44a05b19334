"""Who computes what in the next step.

A step has a token budget. Rows that decode spend one token each, rows in the middle of their prompt go on, and what is
left admits waiting requests; there are no prefill or decode phases. See `docs/explanation/architecture.md`.
"""

from __future__ import annotations

import heapq
import time
from copy import copy
from dataclasses import dataclass

import numpy as np

from sgcore.cache.pages import PageAllocator
from sgcore.cache.radix import Match, RadixTree
from sgcore.engine.messages import Output, Request, Stats
from sgcore.scheduler.pins import Pins
from sgcore.scheduler.policy import POLICIES
from sgcore.scheduler.sequence import Sequence
from sgcore.scheduler.step import ChunkPlan, RowStart, StepPlan, StepResult

FIRST_GROWTH_RATIO = 0.7
LEAST_GROWTH_RATIO = 0.1
GROWTH_RATIO_DECAY = 0.998
GROWTH_RATIO_STEP = 0.1
MOST_GROWTH = 4096
"""Admission expects a row to use this share of the tokens it may still ask for (SGLang's new_token_ratio)."""
MIXED_GROWTH = (4, 2)
MIXED_STEPS = 32
"""Prompts that would take more steps than this beside decode rows get up to four times their tokens in a step."""


@dataclass(frozen=True)
class Limits:
    """The scheduler's knobs; every one comes from the plan."""

    page_tokens: int = 16
    max_rows: int = 256
    step_tokens: int = 512
    mixed_tokens: int = 512
    """Prefill tokens of a step in which rows decode: bounds the time between their tokens."""
    context_tokens: int = 4096
    max_queued_requests: int = 4096
    max_queued_tokens: int = 4_000_000
    policy: str = "fcfs"
    uses_cache: bool = True


class Scheduler:
    """Requests in, step plans out; step results in, outputs out. Knows no tensor.

    `plan` may be called again before `complete` of the last plan: a plan counts as computed at once, since the device
    does the steps in order. For the same reason a page that is freed may be given out at once.
    """

    def __init__(self, limits: Limits, pages: int) -> None:
        self.limits = limits
        self.pages = PageAllocator(pages)
        self.tree = RadixTree(self.pages, limits.page_tokens)
        self.pins = Pins(self.tree, self.pages.total)
        self.waiting = POLICIES[limits.policy](lambda sequence: self._match(sequence).tokens)
        self.sequences: dict[str, Sequence] = {}
        self.decoding: dict[int, Sequence] = {}
        self.prefilling: dict[int, Sequence] = {}
        self.outputs: list[Output] = []
        self.stats = Stats(total_tokens=self.pages.total * limits.page_tokens)
        self._free_rows = list(range(limits.max_rows - 1, -1, -1))
        self._in_flight: dict[tuple[int, bytes], Sequence] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._step = StepPlan(0)
        self._steps = 0
        self._launched: dict[int, list[tuple[Sequence, int]]] = {}
        self._left: list[int] = []
        self._queued_tokens = 0
        self._admissions = 0
        self._is_full = False
        self._moved_pages: list[tuple[int, int, list[int]]] = []
        self._growth_ratio = FIRST_GROWTH_RATIO

    # -- requests come and go ------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
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
        sequence = Sequence(request, list(request.input_ids), prompt, limit, frozenset(request.stop_ids))
        self.sequences[request.rid] = sequence
        self.waiting.append(sequence)
        self._queued_tokens += prompt
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.rid))

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        prompt, limits = len(request.input_ids), self.limits
        pool = self.pages.total * limits.page_tokens
        if request.rid in self.sequences:
            return 400, f"request id {request.rid!r} is in use"
        if not 0 < prompt < limits.context_tokens:
            return 400, f"the prompt has {prompt} tokens; the context length is {limits.context_tokens}"
        if prompt >= pool:
            return 400, f"the prompt has {prompt} tokens; the KV cache holds {pool}"
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
        """A step raised: end the requests that were in it, and forget what they computed."""
        for sequence, epoch in self._launched.pop(step.number):
            if sequence.epoch == epoch:
                sequence.confirmed = 0
                self.abort(sequence.rid, message, 500)

    def snapshot(self, now: float) -> Stats:
        """The present load; `now` is the loop's heartbeat."""
        stats, page = self.stats, self.limits.page_tokens
        stats.heartbeat = now
        stats.running = len(self.decoding) + len(self.prefilling)
        stats.queued, stats.queued_tokens = len(self.waiting), self._queued_tokens
        stats.evictable_tokens = self.tree.evictable_pages * page
        stats.cached_tokens = self.tree.total_pages * page
        stats.used_tokens = (self.pages.total - self.pages.free - self.tree.evictable_pages) * page
        stats.violations_total = self.pages.violations
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
        if self.limits.uses_cache:
            self._checkpoint(sequence)
        self._clear_in_flight(sequence)
        self.pages.release(sequence.pages[sequence.tree_pages :])
        if sequence.node is not None:
            self.tree.unlock(sequence.node)
        self._moved_pages = [entry for entry in self._moved_pages if entry[0] != sequence.row]
        self.decoding.pop(sequence.row, None)
        self.prefilling.pop(sequence.row, None)
        self._free_rows.append(sequence.row)
        self._left.append(sequence.row)
        sequence.row, sequence.node, sequence.pages, sequence.tree_pages = -1, None, [], 0
        sequence.computed = sequence.confirmed = sequence.pending = 0
        sequence.epoch += 1
        self._is_full = False

    # -- planning a step -----------------------------------------------------------------------------------------

    def plan(self) -> StepPlan | None:
        """The next step; None if there is nothing to compute."""
        self._abort_late()
        self._step = step = StepPlan(self._steps, pages=self._moved_pages)
        self._moved_pages = []
        self._grow_rows()
        step.decode = [row for row, sequence in self.decoding.items() if sequence.can_decode]
        budget = self._prefill_budget(len(step.decode))
        for sequence in list(self.prefilling.values()):
            budget -= self._add_chunk(sequence, budget)
        if budget > 0 and self._free_rows and not self._is_full and self.waiting:
            self._admit(budget)
        if not step.decode and not step.chunks:
            self._moved_pages = step.pages
            return None
        step.left, self._left = self._left, []
        self._launch(step)
        return step

    def _prefill_budget(self, decode_rows: int) -> int:
        """Prompt tokens of a step: a page at least, so that prompts advance whatever decodes.

        Beside decode rows they are few, so that tokens keep a steady pace, and more where many prompt tokens wait.
        """
        limits = self.limits
        budget = max(limits.step_tokens - decode_rows, min(limits.page_tokens, limits.step_tokens))
        if not decode_rows:
            return budget
        backlog = self._queued_tokens + sum(s.target - s.computed for s in self.prefilling.values())
        growth = next((g for g in MIXED_GROWTH if backlog > g * MIXED_STEPS * limits.mixed_tokens), 1)
        return min(budget, growth * limits.mixed_tokens)

    def _launch(self, step: StepPlan) -> None:
        """Count a plan as computed, and remember whose its results are."""
        owners = [self.decoding[row] for row in step.decode]
        for sequence in owners:
            sequence.computed += 1
            sequence.pending += 1
        for chunk in step.chunks:
            sequence = self.prefilling[chunk.row]
            sequence.computed += chunk.count
            owners.append(sequence)
            if chunk.is_last:
                sequence.pending += 1
                self.decoding[chunk.row] = self.prefilling.pop(chunk.row)
        self._launched[step.number] = [(sequence, sequence.epoch) for sequence in owners]
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
        """A page for every decoding row whose last one is full; retract the newest rows where there is none."""
        page = self.limits.page_tokens
        needy = [s for s in self.decoding.values() if s.computed == len(s.pages) * page and s.can_decode]
        for sequence in needy:
            while sequence.row >= 0:
                new = self._allocate(1)
                if new is not None:
                    self._step.pages.append((sequence.row, len(sequence.pages), new))
                    sequence.pages += new
                    break
                self._retract_newest()

    def _retract_newest(self) -> None:
        """The newest row goes back to the head of the queue; one that is alone and still too large ends."""
        rows = [*self.decoding.values(), *self.prefilling.values()]
        victim = max(rows, key=lambda s: s.admitted)
        if len(rows) == 1 and self.pins.clear():
            return
        if len(rows) == 1:
            self._end(victim, Output(victim.rid, [], "length", message="the KV cache is full"))
            return
        self._step.pages = [entry for entry in self._step.pages if entry[0] != victim.row]
        self._release(victim)
        victim.retractions += 1
        self.stats.retractions_total += 1
        self.waiting.append_front(victim)
        self._queued_tokens += len(victim.tokens)
        self._growth_ratio = min(1.0, self._growth_ratio + GROWTH_RATIO_STEP)
        self._is_full = True

    def _add_chunk(self, sequence: Sequence, budget: int) -> int:
        """Tokens of a prefilling row for this step."""
        count = min(sequence.target - sequence.computed, budget)
        if count > 0:
            is_last = sequence.computed + count == sequence.target
            self._step.chunks.append(ChunkPlan(sequence.row, sequence.computed, count, is_last))
        return max(count, 0)

    def _admit(self, budget: int) -> None:
        growth = self._expected_growth()
        for sequence in self.waiting.candidates():
            match = self._match(sequence)
            prefix = self._next_prefix(sequence, match)
            if prefix in self._in_flight:
                continue
            is_alone = not (self.decoding or self.prefilling)
            while not self._start(sequence, match, growth):
                if not (is_alone and self.pins.clear()):
                    self._is_full = not is_alone
                    return
            if prefix is not None:
                self._in_flight[prefix] = sequence
                sequence.in_flight = prefix
            growth += self._growth_of(sequence)
            budget -= self._add_chunk(sequence, budget)
            if budget <= 0 or not self._free_rows:
                return

    def _match(self, sequence: Sequence) -> Match:
        request = sequence.request
        most = len(sequence.tokens) - 1
        if request.logprob_start >= 0:
            most = min(most, max(request.logprob_start - 1, 0))
        return self.tree.match(sequence.tokens, request.namespace, most if self.limits.uses_cache else 0)

    def _next_prefix(self, sequence: Sequence, match: Match) -> tuple[int, bytes] | None:
        """What a request would compute first. Who wants the same waits a few steps and finds it in the tree."""
        ahead = sequence.tokens[match.tokens : match.tokens + self.limits.page_tokens]
        if len(ahead) < self.limits.page_tokens or not self.limits.uses_cache:
            return None
        return id(match.node), np.asarray(ahead, np.int32).tobytes() + sequence.request.namespace.encode()

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
        available = self.pages.free + self.tree.evictable_pages
        pages = self._allocate(needed) if needed + headroom <= available else None
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
        request, tokens = sequence.request, sequence.tokens
        if not sequence.retractions:
            sequence.cached_tokens = sequence.computed
            self.stats.prompt_tokens_total += len(tokens)
            self.stats.prefix_hit_tokens_total += sequence.computed
        sequence.row = self._free_rows.pop()
        sequence.target = len(tokens)
        self._admissions += 1
        sequence.admitted = self._admissions
        self.prefilling[sequence.row] = sequence
        self.waiting.remove(sequence)
        self._queued_tokens -= len(tokens)
        self._step.joined.append(
            RowStart(
                sequence.row,
                list(tokens),
                sequence.prompt_tokens,
                sequence.computed,
                list(sequence.pages),
                request.sampling,
                request.stop_ids,
                request.logprob_start if not sequence.output_tokens else -1,
                request.top_logprobs,
            )
        )

    def _allocate(self, count: int) -> list[int] | None:
        """Pages from the free list, evicting cached prefixes for them; None if there are too few."""
        if count > self.pages.free:
            self.tree.evict(count - self.pages.free)
        return self.pages.allocate(count)

    # -- taking a step's result ----------------------------------------------------------------------------------

    def complete(self, step: StepPlan, result: StepResult) -> None:
        """Advance every row of the step by what it computed and sampled; rows given up meanwhile are passed over."""
        tokens, owners = iter(result.tokens), iter(self._launched.pop(step.number))
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
        self.stats.generated_tokens_total += len(result.tokens)

    def _complete_chunk(self, sequence: Sequence, chunk: ChunkPlan, token: int, result: StepResult) -> None:
        self._checkpoint_prompt(sequence)
        if chunk.is_last:
            self._clear_in_flight(sequence)
            self._accept(sequence, token, result)
        elif chunk.row in result.prompt_logprobs:
            self.outputs.append(Output(sequence.rid, [], prompt_logprobs=result.prompt_logprobs[chunk.row]))

    def _accept(self, sequence: Sequence, token: int, result: StepResult) -> None:
        """Append a sampled token and see whether it is the last."""
        row, tokens = sequence.row, sequence.tokens
        sequence.pending -= 1
        output = Output(sequence.request.rid, [token])
        if result.logprobs and row in result.logprobs:
            output.logprobs = [result.logprobs[row]]
        if result.prompt_logprobs and row in result.prompt_logprobs:
            output.prompt_logprobs = result.prompt_logprobs[row]
        if len(tokens) >= sequence.limit:
            output.tokens, output.logprobs, output.finish = [], [], "length"
            self._end(sequence, output)
            return
        tokens.append(token)
        if token in sequence.stop_ids and sequence.output_tokens >= sequence.request.sampling.min_new_tokens:
            output.finish, output.matched = "stop", token
            self._end(sequence, output)
        elif len(tokens) >= sequence.limit:
            output.finish = "length"
            self._end(sequence, output)
        else:
            output.cached_tokens = sequence.cached_tokens
            self.outputs.append(output)

    def _checkpoint_prompt(self, sequence: Sequence) -> None:
        """Put what a chunk computed into the tree, for others to use at once."""
        if self.limits.uses_cache:
            self._checkpoint(sequence)
            self._clear_in_flight(sequence)
            if sequence.confirmed < sequence.target and sequence.node is not None:
                done = sequence.tree_pages * self.limits.page_tokens
                prefix = self._next_prefix(sequence, Match(sequence.node, [], done, None, 0))
                if prefix is not None and prefix not in self._in_flight:
                    self._in_flight[prefix], sequence.in_flight = sequence, prefix

    def _checkpoint(self, sequence: Sequence) -> None:
        """Insert the computed whole pages and hold the new end of the path instead of the old one."""
        whole = sequence.confirmed // self.limits.page_tokens
        if whole <= sequence.tree_pages or sequence.node is None:
            return
        tokens = sequence.tokens[: whole * self.limits.page_tokens]
        node, _ = self.tree.insert(tokens, sequence.pages[:whole], sequence.request.namespace)
        self.tree.lock(node)
        self.tree.unlock(sequence.node)
        path = self.tree.path_pages(node)
        if path != sequence.pages[:whole] and not sequence.is_ended:
            self._moved_pages.append((sequence.row, 0, path))
        sequence.node, sequence.tree_pages = node, whole
        sequence.pages[:whole] = path

    def _clear_in_flight(self, sequence: Sequence) -> None:
        if sequence.in_flight is not None:
            self._in_flight.pop(sequence.in_flight, None)
            sequence.in_flight = None
