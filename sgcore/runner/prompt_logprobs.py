"""Logprobs of prompt tokens: decided by the hidden states of the chunks that compute the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sgcore.engine.messages import TokenLogprobs
from sgcore.kernels import Kernels
from sgcore.runner.inputs import StepInputs
from sgcore.runner.readback import Logprobs
from sgcore.runner.rows import Rows
from sgcore.runner.sampler import AskedIds, token_logprobs
from sgcore.scheduler.step import ChunkPlan


@dataclass(slots=True)
class PromptLogprobs:
    """What one chunk decides: hidden states [begin, begin + targets) of the batch predict `targets`."""

    begin: int
    targets: Tensor
    top: int
    first_token: int | None
    """The prompt's first token, which nothing predicts, where it is asked for."""
    asked: AskedIds | None = None

    def logprobs(self, model: Any, kernels: Kernels, hidden: Tensor) -> Logprobs:
        count = len(self.targets)
        logits = model.logits(hidden[self.begin : self.begin + count])
        return token_logprobs(kernels, logits, self.targets, [self.top] * count, self.asked)

    def entries(self, arrived: Logprobs) -> list[TokenLogprobs]:
        unpredicted = [] if self.first_token is None else [TokenLogprobs(self.first_token, None)]
        return unpredicted + arrived.entries()


def prompt_logprobs(
    chunk: ChunkPlan, begin: int, rows: Rows, wanted: int, top: int, ids: tuple[int, ...], inputs: StepInputs
) -> PromptLogprobs:
    """For prompt positions [wanted, ...] that the chunk's hidden states, from `begin` in the batch, predict."""
    tokens = rows.tokens[chunk.row, : rows.known[chunk.row]].astype(np.int64)
    first_token = int(tokens[0]) if chunk.start == 0 and wanted == 0 else None
    first = max(chunk.start + 1, wanted)
    last = max(min(chunk.start + chunk.count + 1, len(tokens)), first)
    asked = AskedIds([ids] * (last - first), inputs.put(np.array([ids], np.int64))) if ids else None
    return PromptLogprobs(begin + first - 1 - chunk.start, inputs.put(tokens[first:last]), top, first_token, asked)
