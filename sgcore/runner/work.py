"""A step on its way: what the host has prepared for the device."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from torch import Tensor

from sgcore.runner.batch import ForwardBatch
from sgcore.runner.prompt_logprobs import PromptLogprobs
from sgcore.runner.sampler import SamplingPlan


@dataclass(slots=True)
class Work:
    """Tensors are valid once the step's inputs were sent."""

    batch: ForwardBatch
    decode_rows: Tensor
    """(decode rows,) int64: places in the device's state."""
    sampling_rows: Tensor
    """(sampling rows,) int64: likewise."""
    sampling: SamplingPlan | None
    key: Hashable = None
    """Of the graph that computes it; None: no graph does."""
    chunk_ids: Tensor | None = None
    """(tokens,) int64: of the prefill chunks, behind one another."""
    last_places: Tensor | None = None
    """(sampling rows,) int64: where each one's last token is in the batch; None: everywhere."""
    prompts: list[tuple[int, PromptLogprobs]] = field(default_factory=list)
    """By row: the prompt positions whose logprobs this step decides."""


@dataclass(slots=True)
class Computed:
    """What the device has made of a step, as far as somebody reads it; the rest's memory is free again."""

    hidden: Tensor | None = None
    """(tokens, hidden), for prompt logprobs."""
    logits: Tensor | None = None
    """(sampling rows, vocabulary), where the tokens are yet to be chosen."""
    tokens: Tensor | None = None
    """(sampling rows,) int64."""
