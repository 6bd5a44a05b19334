"""What one forward pass reads: flat tokens of many rows, decode rows first, then prefill chunks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from sgcore.runner.inputs import StepInputs


@dataclass(slots=True)
class ForwardBatch:
    """One step's tokens, flattened over rows. Rows [0, decode_rows) have one token each.

    A static batch is one that a captured graph replays: it has decode rows alone, `decode_rows` is the graph's size,
    and the host arrays may describe fewer rows; the tokens behind them are padding whose results nobody reads.
    """

    positions: Tensor
    """(tokens,) int64, from 0 in each row."""
    slots: Tensor
    """(tokens,) int64: page * page_tokens + offset of each token in the pool."""
    decode_rows: int
    rows: np.ndarray[Any, Any]
    """(rows,) int64: the place of each row in the runner's state."""
    starts: np.ndarray[Any, Any]
    """(rows + 1,) int64: where each row's tokens begin."""
    lengths: np.ndarray[Any, Any]
    """(rows,) int64: tokens of each row in the cache after this step."""
    page_table: np.ndarray[Any, Any]
    """(rows, pages) int32: each row's pages, at least as many as its length needs."""
    pages: Tensor
    """(places, pages) int32 on the device: the pages of every row of the runner's state, by `rows`."""
    inputs: StepInputs
    """Takes host arrays to the device."""
    is_static: bool = False
    input_ids: Tensor = field(init=False)
    """(tokens,) int64; set when the device's work begins, since sampled tokens are known there alone."""
    attention: Any = None
    """What the attention backend's `plan` prepared."""
    rope: tuple[Tensor, Tensor] | None = None
    """cos and sin of `positions`, computed once a step."""
