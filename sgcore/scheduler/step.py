"""What the scheduler asks of a runner, and what comes back. Rows are places in the runner's state."""

from __future__ import annotations

from dataclasses import dataclass, field

from sgcore.engine.messages import SamplingParams, TokenLogprobs


@dataclass(slots=True)
class RowStart:
    """A request that takes a row, or goes on in it with tokens that were not sampled.

    It has all its tokens so far, of which `computed` are in the cache.
    """

    row: int
    tokens: list[int]
    prompt_tokens: int
    """The rest of `tokens` is output, from before a retraction."""
    computed: int
    pages: list[int]
    sampling: SamplingParams
    stop_ids: list[int]
    logprob_start: int
    top_logprobs: int


@dataclass(slots=True)
class ChunkPlan:
    """A row's prefill of `count` tokens from `start`; the last chunk of a row also samples."""

    row: int
    start: int
    count: int
    is_last: bool


@dataclass(slots=True)
class StepPlan:
    """One step as a change to the runner's state, applied in this order: leave, join, pages, copies; then compute."""

    number: int
    left: list[int] = field(default_factory=list)
    joined: list[RowStart] = field(default_factory=list)
    pages: list[tuple[int, int, list[int]]] = field(default_factory=list)
    """(row, first place, page ids) for the row's page table."""
    copies: list[tuple[int, int]] = field(default_factory=list)
    """(source page, target page)."""
    decode: list[int] = field(default_factory=list)
    """Rows that compute their newest token and sample the next."""
    chunks: list[ChunkPlan] = field(default_factory=list)

    masked: list[int] = field(default_factory=list)
    """Places, among the rows that sample, of those whose tokens a mask restricts. Such a step waits for its masks."""

    @property
    def tokens(self) -> int:
        return len(self.decode) + sum(chunk.count for chunk in self.chunks)


@dataclass(slots=True)
class StepResult:
    """The sampled token of each row that sampled: decode rows first, then last chunks, in the plan's order.

    A negative one stands for logits that aren't finite.
    """

    tokens: list[int]
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    """By row, for rows that asked."""
    prompt_logprobs: dict[int, list[TokenLogprobs]] = field(default_factory=dict)
    """By row: entries of the prompt positions that this step's chunk decided."""
