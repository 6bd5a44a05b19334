"""The loop: messages in, steps computed, outputs out. The same class in a thread and in a process of its own."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from sgcore.api import Pending, Runner, StartReport
from sgcore.constraints.masks import Filling
from sgcore.constraints.queue import GrammarQueue
from sgcore.engine.messages import (
    Abort,
    Alive,
    Command,
    Failed,
    FromCore,
    Output,
    Outputs,
    Pin,
    Ready,
    Reply,
    Request,
    Stats,
    ToCore,
    Unpin,
    Vocabulary,
)
from sgcore.errors import DeviceLost, LaunchError
from sgcore.plugins.plan import Plan
from sgcore.scheduler.scheduler import Limits, Scheduler
from sgcore.scheduler.sequence import Sequence as Row
from sgcore.scheduler.step import StepPlan

log = logging.getLogger("sgcore.core")

STATS_EVERY_S = 0.5
HEARTBEAT_S = 1.0
COMPILING_S = 0.002
"""Between two looks at constraints in work, where nothing else is to be done."""


class Channel(Protocol):
    """How messages reach a core and leave it."""

    def receive(self, timeout_s: float) -> Sequence[ToCore]:
        """What has arrived; waits up to `timeout_s` seconds for the first one."""

    def send(self, message: FromCore) -> None:
        """Hand a message to the frontend."""

    def close(self) -> None:
        """Wait briefly for the last messages to leave."""


@dataclass(slots=True)
class Launched:
    """A step on its way, and its masks where they are being filled already."""

    plan: StepPlan
    pending: Pending
    masks: tuple[list[Row | None], Filling] | None = None


class EngineCore:
    """A scheduler, a runner and the loop that joins them."""

    def __init__(self, plan: Plan, channel: Channel) -> None:
        self.channel = channel
        report = StartReport()
        self.runner: Runner = plan.platform.load()().create_runner(plan)
        self.runner.load(report)
        self.scheduler = Scheduler(limits(plan, self.runner), self.runner.pages)
        self.grammars = GrammarQueue(plan, self.runner.vocab_size)
        self._launched: deque[Launched] = deque()
        self._is_stopping = self._is_warm = False
        self._stats_due = 0.0
        self.turned = time.monotonic()
        pool = self.scheduler.pages.total * self.runner.page_tokens
        channel.send(Ready(report.rows, pool, plan.context_tokens))

    def run(self) -> None:
        """Until a shutdown command: take messages, compute a step. Waits when there is nothing to do."""
        while not self._is_stopping:
            self.turned = time.monotonic()
            is_busy = self.scheduler.has_work or self._launched or self._warm_up()
            waits = COMPILING_S if self.grammars.waiting else HEARTBEAT_S
            for message in self.channel.receive(0.0 if is_busy else waits):
                self.handle(message)
            self.take_compiled()
            self.step()
            self._report(force=False)
        self.grammars.close()
        self.runner.close()

    def _warm_up(self) -> bool:
        """Prepare a step that may come; False if there is none, or preparing fails: then it's done when it comes."""
        try:
            self._is_warm = self._is_warm or not self.runner.warm_up()
        except Exception:
            log.exception("a step could not be prepared ahead")
            self._is_warm = True
        return not self._is_warm

    def handle(self, message: ToCore) -> None:
        """Take one message."""
        if isinstance(message, Request):
            try:
                self._take(message)
            except Exception as error:
                log.exception("request %r could not be taken", message.rid)
                self.scheduler.outputs.append(_failed(message.rid, error))
        elif isinstance(message, Abort):
            for rid in [*self.scheduler.sequences, *self.grammars.waiting] if message.everything else message.rids:
                self.grammars.abort(rid)
                self.scheduler.abort(rid)
        elif isinstance(message, Vocabulary):
            self.grammars.vocabulary = message
        elif isinstance(message, Pin):
            self.scheduler.pins.add(message.group, message.tokens, message.namespace)
        elif isinstance(message, Unpin):
            self.scheduler.pins.remove(message.group)
        else:
            self._command(message)

    def _take(self, request: Request) -> None:
        constraint = request.sampling.constraint
        if constraint is None:
            self.scheduler.add(request, self.grammars.unconstrained(request))
        else:
            self.grammars.add(request, constraint)

    def take_compiled(self) -> None:
        """Requests whose constraint is a grammar now go on; those without one end."""
        if self.grammars.waiting or self.grammars.refused:
            for request, progress in self.grammars.take_ready(time.monotonic()):
                self.scheduler.add(request, progress)
            self.scheduler.outputs += self.grammars.refused
            self.grammars.refused = []

    def _command(self, command: Command) -> None:
        if command.name == "shutdown":
            self._is_stopping = True
        is_ok = command.name != "flush_cache" or self.scheduler.flush_cache()
        self.channel.send(Reply(command.call, is_ok, stats=self.stats()))

    def step(self) -> None:
        """Launch one step if there is one, take the oldest result if enough are on their way, send what came of it."""
        plan = self.scheduler.plan()
        if plan is not None:
            self._launch(plan)
            if plan.masked and self._launched and self._launched[-1].plan is plan:
                self._sample()
        if self._launched and (plan is None or len(self._launched) > self.runner.run_ahead):
            self._collect()
        if self.scheduler.outputs:
            outputs, self.scheduler.outputs = self.scheduler.outputs, []
            self.channel.send(Outputs(outputs))

    def _launch(self, plan: StepPlan) -> None:
        # With nothing on its way every token is known, and the masks are filled while the device computes.
        masks = self._fill(plan) if plan.masked and not self._launched else None
        try:
            self._launched.append(Launched(plan, self.runner.launch(plan), masks))
        except Exception as error:
            if masks is not None:
                masks[1].wait()
            self._fail(plan, error)

    def _fill(self, plan: StepPlan) -> tuple[list[Row | None], Filling]:
        rows = self.scheduler.masked(plan)
        return rows, self.grammars.filler.start([None if row is None else row.constraint for row in rows])

    def _sample(self) -> None:
        """Sample the newest step, whose masks depend on the tokens of all before it."""
        while len(self._launched) > 1:
            self._collect()
        if not self._launched:
            return
        launched = self._launched[0]
        rows, filling = launched.masks or self._fill(launched.plan)
        filling.wait()
        try:
            launched.pending.sample(filling.masks)
        except Exception as error:
            self._fail(launched.plan, error)
        for place, failure in filling.failures.items():
            row = rows[place]
            if row is not None and not row.is_ended:
                self.scheduler.abort(row.rid, str(failure), failure.status)

    def _collect(self) -> None:
        launched = self._launched.popleft()
        try:
            result = launched.pending()
        except Exception as error:
            self._fail(launched.plan, error)
        else:
            self.scheduler.complete(launched.plan, result)

    def _fail(self, plan: StepPlan, error: Exception) -> None:
        """Find out whom a step failed for. What is on its way is computed again, since it may be of failed rows.

        Raises `DeviceLost` where nothing can be computed any more.
        """
        log.error("step %d failed", plan.number, exc_info=error)
        self._launched.clear()
        self.runner.recover()
        self.scheduler.fail(plan, f"{type(error).__name__}: {error}")

    def stats(self) -> Stats:
        """The present load."""
        stats = self.scheduler.snapshot()
        stats.queued += len(self.grammars.waiting)
        return stats

    def _report(self, force: bool) -> None:
        now = time.monotonic()
        if force or now >= self._stats_due:
            self._stats_due = now + STATS_EVERY_S
            self.channel.send(self.stats())


def _failed(rid: str, error: Exception) -> Output:
    return Output(rid, [], "abort", message=f"{type(error).__name__}: {error}", status=500)


def limits(plan: Plan, runner: Runner) -> Limits:
    """The scheduler's knobs from the plan's options."""
    options = plan.options
    return Limits(
        page_tokens=runner.page_tokens,
        max_rows=int(options["max_running_requests"]),
        step_tokens=int(options["chunked_prefill_size"]),
        mixed_tokens=int(options["mixed_chunk_size"] or options["chunked_prefill_size"]),
        context_tokens=plan.context_tokens,
        max_queued_requests=int(options["max_queued_requests"]),
        max_queued_tokens=int(options["max_queued_tokens"]),
        policy=str(options["schedule_policy"]),
        uses_cache=not options["disable_radix_cache"],
        vocab_size=runner.vocab_size,
    )


@contextmanager
def heartbeat(core: EngineCore) -> Iterator[None]:
    """Tell the frontend from a thread that the process runs: a loop in a long step can't, nor can a stopped process."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            core.channel.send(Alive(core.turned))

    thread = threading.Thread(target=beat, name="sgcore-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def run_core(plan: Plan, channel: Channel, owns_process: bool = False) -> bool:
    """Build a core and run it to its end; a failure is reported through the channel. Returns whether it ended well."""
    try:
        core = EngineCore(plan, channel)
        if owns_process:
            gc.freeze()  # or a full collection visits all of torch's objects, and one step takes 0.1 s longer
        with heartbeat(core):
            core.run()
    except BaseException as error:
        hint = getattr(error, "hint", "--log-level debug shows where")
        log.debug("the core failed", exc_info=True)
        message = f"{error}" if isinstance(error, LaunchError) else f"{type(error).__name__}: {error}"
        is_device_lost = isinstance(error, DeviceLost)
        channel.send(Failed(message, hint, is_device_lost=is_device_lost))
        if is_device_lost and owns_process:
            # Tensors of a lost device abort the process when they are freed, maybe before the message has left.
            channel.close()
            os._exit(1)
        return False
    return True
