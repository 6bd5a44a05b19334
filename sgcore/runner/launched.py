"""A step on its way: sampled where it waits for masks, read back, waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sgcore.api import Masks, Pending
from sgcore.runner.readback import Arrival, Logprobs, to_host
from sgcore.runner.rows import sampling_rows
from sgcore.runner.work import Computed, Work
from sgcore.scheduler.step import StepPlan, StepResult

if TYPE_CHECKING:
    from sgcore.runner.runner import ModelRunner


class LaunchedStep(Pending):
    """What the device makes of a step, and its way to the host."""

    def __init__(self, runner: ModelRunner, step: StepPlan, work: Work, computed: Computed) -> None:
        self._runner, self._step, self._work, self._computed = runner, step, work, computed

    @torch.inference_mode()
    def sample(self, masks: Masks) -> None:
        self.read_back(self._runner.inputs.send_late(masks))

    def read_back(self, masks: Tensor | None = None) -> None:
        """Sample what no graph has sampled, and ask for everything that the host wants."""
        runner, work, computed = self._runner, self._work, self._computed
        tokens, logprobs, sampling = computed.tokens, None, work.sampling
        if sampling is not None and computed.logits is not None:
            tokens = runner.choose(computed.logits, work, masks)
            logprobs = runner.sampler.logprobs(computed.logits, tokens, sampling)
        self._rows = sampling_rows(self._step)
        self._chosen = None if tokens is None else to_host(tokens[: len(self._rows)])
        self._logprobs: Logprobs | None = logprobs and logprobs.to_host()
        self._prompts = runner.prompt_logprobs(work, computed.hidden)
        self._arrival = Arrival(runner.device)

    def __call__(self) -> StepResult:
        self._arrival.wait()
        result = StepResult([] if self._chosen is None else self._chosen.tolist())
        sampling = self._work.sampling
        if self._logprobs is not None and sampling is not None:
            asked = (self._rows[place] for place in sampling.logprob_top)
            result.logprobs = dict(zip(asked, self._logprobs.entries(), strict=True))
        for (row, wanted), arrived in zip(self._work.prompts, self._prompts, strict=True):
            result.prompt_logprobs[row] = wanted.entries(arrived)
        return result
