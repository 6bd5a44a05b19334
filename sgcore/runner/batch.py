"""What one forward pass reads: flat tokens of many rows, decode rows first, then prefill chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(slots=True)
class ForwardBatch:
    """One step's tokens, flattened over rows. Rows [0, decode_rows) have one token each."""

    input_ids: Tensor
    """(tokens,) int64."""
    positions: Tensor
    """(tokens,) int64, from 0 in each row."""
    slots: Tensor
    """(tokens,) int64: page * page_tokens + offset of each token in the pool."""
    decode_rows: int
    starts: np.ndarray[Any, Any]
    """(rows + 1,) int64: where each row's tokens begin."""
    lengths: np.ndarray[Any, Any]
    """(rows,) int64: tokens of each row in the cache after this step."""
    page_table: np.ndarray[Any, Any]
    """(rows, pages) int32: each row's pages, at least as many as its length needs."""
    attention: Any = None
    """What the attention backend's `plan` prepared."""
    rope: tuple[Tensor, Tensor] | None = None
    """cos and sin of `positions`, computed once a step."""
