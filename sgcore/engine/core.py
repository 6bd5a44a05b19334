"""The loop: messages in, steps computed, outputs out. The same class in a thread and in a process of its own."""

from __future__ import annotations

import gc
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from sgcore.api import Pending, Runner, StartReport
from sgcore.engine.messages import (
    Abort,
    Command,
    Failed,
    FromCore,
    Outputs,
    Pin,
    Ready,
    Reply,
    Request,
    Stats,
    ToCore,
    Unpin,
)
from sgcore.plugins.plan import Plan
from sgcore.scheduler.scheduler import Limits, Scheduler
from sgcore.scheduler.step import StepPlan

log = logging.getLogger("sgcore.core")

STATS_EVERY_S = 0.5
HEARTBEAT_S = 1.0


class Channel(Protocol):
    """How messages reach a core and leave it."""

    def receive(self, timeout_s: float) -> Sequence[ToCore]:
        """What has arrived; waits up to `timeout_s` seconds for the first one."""

    def send(self, message: FromCore) -> None:
        """Hand a message to the frontend."""


class EngineCore:
    """A scheduler, a runner and the loop that joins them."""

    def __init__(self, plan: Plan, channel: Channel) -> None:
        self.channel = channel
        report = StartReport()
        self.runner: Runner = plan.platform.load()().create_runner(plan)
        self.runner.load(report)
        self.scheduler = Scheduler(limits(plan, self.runner), self.runner.pages)
        self._launched: deque[tuple[StepPlan, Pending]] = deque()
        self._is_stopping = self._is_warm = False
        self._stats_due = 0.0
        pool = self.scheduler.pages.total * self.runner.page_tokens
        channel.send(Ready(report.rows, pool, plan.context_tokens))

    def run(self) -> None:
        """Until a shutdown command: take messages, compute a step. Waits when there is nothing to do."""
        while not self._is_stopping:
            is_busy = self.scheduler.has_work or self._launched or self._warm_up()
            timeout = 0.0 if is_busy else HEARTBEAT_S
            for message in self.channel.receive(timeout):
                self.handle(message)
            self.step()
            self._report(force=False)
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
            self.scheduler.add(message)
        elif isinstance(message, Abort):
            for rid in list(self.scheduler.sequences) if message.everything else message.rids:
                self.scheduler.abort(rid)
        elif isinstance(message, Pin):
            self.scheduler.pins.add(message.group, message.tokens, message.namespace)
        elif isinstance(message, Unpin):
            self.scheduler.pins.remove(message.group)
        else:
            self._command(message)

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
        if self._launched and (plan is None or len(self._launched) > self.runner.run_ahead):
            self._collect()
        if self.scheduler.outputs:
            outputs, self.scheduler.outputs = self.scheduler.outputs, []
            self.channel.send(Outputs(outputs))

    def _launch(self, plan: StepPlan) -> None:
        try:
            self._launched.append((plan, self.runner.launch(plan)))
        except Exception as error:
            self._fail(plan, error)

    def _collect(self) -> None:
        plan, pending = self._launched.popleft()
        try:
            result = pending()
        except Exception as error:
            self._fail(plan, error)
        else:
            self.scheduler.complete(plan, result)

    def _fail(self, plan: StepPlan, error: Exception) -> None:
        """A step that fails ends its own requests."""
        log.error("step %d failed", plan.number, exc_info=error)
        self.scheduler.fail(plan, f"{type(error).__name__}: {error}")

    def stats(self) -> Stats:
        """The present load."""
        return self.scheduler.snapshot(time.monotonic())

    def _report(self, force: bool) -> None:
        now = time.monotonic()
        if force or now >= self._stats_due:
            self._stats_due = now + STATS_EVERY_S
            self.channel.send(self.stats())


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
    )


def run_core(plan: Plan, channel: Channel, owns_process: bool = False) -> bool:
    """Build a core and run it to its end; a failure is reported through the channel. Returns whether it ended well."""
    try:
        core = EngineCore(plan, channel)
        if owns_process:
            gc.freeze()  # or a full collection visits all of torch's objects, and one step takes 0.1 s longer
        core.run()
    except BaseException as error:
        hint = getattr(error, "hint", "")
        log.debug("the core failed", exc_info=True)
        message = f"{error}" if hint else f"{type(error).__name__}: {error}"
        channel.send(Failed(message, hint))
        return False
    return True
