"""What one forward pass reads: flat tokens of many rows, decode rows first, then prefill chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from sgcore.runner.inputs import StepInputs


class StaticSize(NamedTuple):
    """What a captured graph is for; a step is padded to it."""

    decode_rows: int
    chunk_tokens: int
    """Tokens of all prefill chunks."""
    chunk_rows: int
    """Most chunks."""

    @property
    def tokens(self) -> int:
        return self.decode_rows + self.chunk_tokens

    @property
    def sampling_rows(self) -> int:
        return self.decode_rows + self.chunk_rows


@dataclass(slots=True)
class ForwardBatch:
    """One step's tokens, flattened over rows: decode rows with one token each, then prefill chunks.

    A static batch is one that a captured graph replays, padded to `size`: the chunks' tokens begin at
    `size.decode_rows`, and nobody reads what is computed for tokens that belong to no row.
    """

    positions: Tensor
    """(tokens,) int64, from 0 in each row."""
    slots: Tensor
    """(tokens,) int64: page * page_tokens + offset of each token in the pool."""
    decode_rows: int
    """Rows that decode; the rest are chunks."""
    rows: np.ndarray[Any, Any]
    """(rows,) int64: the place of each row in the runner's state."""
    starts: np.ndarray[Any, Any]
    """(rows,) int64: where each row's tokens begin."""
    counts: np.ndarray[Any, Any]
    """(rows,) int64: tokens of each row in this step."""
    lengths: np.ndarray[Any, Any]
    """(rows,) int64: tokens of each row in the cache after this step."""
    page_table: np.ndarray[Any, Any]
    """(rows, pages) int32: each row's pages, at least as many as its length needs."""
    pages: Tensor
    """(places, pages) int32 on the device: the pages of every row of the runner's state, by `rows`."""
    inputs: StepInputs
    """Takes host arrays to the device."""
    size: StaticSize | None = None
    """Of a static batch."""
    input_ids: Tensor = field(init=False)
    """(tokens,) int64; set when the device's work begins, since sampled tokens are known there alone."""
    attention: Any = None
    """What the attention backend's `plan` prepared."""
    picks: Tensor | None = None
    """(tokens,) int64: those that are read behind the last layer's attention; None: all, or they are picked."""
    rope: dict[object, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """cos and sin of `positions` by the table they are from, each computed once a step."""

    def pick(self, *states: Tensor) -> tuple[Tensor, ...]:
        """(tokens, ...) each -> (tokens that are read, ...). A model may call it once, behind its last attention."""
        if self.picks is not None:
            states = tuple(state[self.picks] for state in states)
            self.picks = None
        return states
