"""The null platform: every step is planned, nothing is computed, tokens come from a counter.

It measures sgcore's own overhead and drives the scheduler through simulations; its pool is as large as it is told.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from sgcore.api import AttentionBackend, Masks, Memory, Pending, Platform, Runner, StartReport
from sgcore.cache.pool import KVPool
from sgcore.kernels import Kernels
from sgcore.plugins.plan import Plan
from sgcore.runner.batch import ForwardBatch
from sgcore.runner.rows import Rows, sampling_rows
from sgcore.scheduler.step import StepPlan, StepResult

DEFAULT_POOL_TOKENS = 1 << 20


class NullPending(Pending):
    """A step that has ended already. A masked row whose token isn't allowed gets the lowest that is."""

    def __init__(self, step: StepPlan, tokens: list[int]) -> None:
        self._step, self._tokens = step, tokens

    def sample(self, masks: Masks) -> None:
        for place, words in zip(self._step.masked, masks, strict=True):
            is_allowed = np.unpackbits(words.view(np.uint8), bitorder="little")
            if not is_allowed[self._tokens[place]]:
                self._tokens[place] = int(is_allowed.argmax())

    def __call__(self) -> StepResult:
        return StepResult(self._tokens)


class NullRunner(Runner):
    """Keeps the state of rows as a real runner does; the token after position p is p modulo the vocabulary."""

    def __init__(self, plan: Plan, step_s: float = 0.0) -> None:
        self.page_tokens = int(plan.options.get("page_size") or 16)
        self.vocab_size = int(plan.hf_config["vocab_size"])
        tokens = int(plan.options.get("max_total_tokens") or DEFAULT_POOL_TOKENS)
        self._pages = tokens // self.page_tokens + 1
        self._rows = int(plan.options["max_running_requests"])
        self._context = plan.context_tokens
        self._step_s = step_s
        self.run_ahead = int(plan.options.get("run_ahead") or 0)

    def load(self, report: StartReport) -> None:
        self.rows = Rows(self._rows, self._context, self.page_tokens)
        report.add("KV cache", f"{self._pages} pages of nothing")

    @property
    def pages(self) -> int:
        return self._pages

    def launch(self, step: StepPlan) -> Pending:
        self.rows.apply(step)
        if self._step_s:
            time.sleep(self._step_s)
        positions = self.rows.known[np.array(sampling_rows(step), np.int64)]
        pending = NullPending(step, (positions % self.vocab_size).tolist())
        self.rows.advance(step)
        return pending


class NullPlatform(Platform):
    """The platform `null`."""

    name = "null"
    device_type = "cpu"
    default_attention = "null"

    def initialise(self, rank: int) -> torch.device:
        return torch.device("cpu")

    def memory(self) -> Memory:
        return Memory(0, 0)

    def kernels(self) -> Kernels:
        return Kernels()

    def create_runner(self, plan: Plan) -> Runner:
        return NullRunner(plan)


class NullAttention(AttentionBackend):
    """Attends to nothing: for a model's shapes without its work."""

    can_capture = True

    def __init__(self, pool: KVPool, kernels: Kernels) -> None:
        self.pool = pool

    def plan(self, batch: ForwardBatch) -> None:
        return None

    def forward(self, q: Any, k: Any, v: Any, layer: int, scale: float, window: int | None, batch: ForwardBatch) -> Any:
        return torch.zeros_like(q)
