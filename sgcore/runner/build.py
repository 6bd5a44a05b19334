"""From a step plan and the state of the rows to a flat batch: decode rows first, then chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from sgcore.runner.batch import ForwardBatch
from sgcore.runner.inputs import StepInputs
from sgcore.runner.rows import Rows
from sgcore.scheduler.step import StepPlan

Array = np.ndarray[Any, Any]


def build_batch(
    step: StepPlan, state: Rows, pages: Tensor, inputs: StepInputs, size: int | None = None
) -> ForwardBatch:
    """`size`: rows of a static batch; padding tokens have position 0 and the scratch page's first slot."""
    page_tokens = state.page_tokens
    rows = np.array(step.decode + [chunk.row for chunk in step.chunks], np.int64)
    begins = state.computed[rows]
    if step.chunks:
        counts = np.array([1] * len(step.decode) + [chunk.count for chunk in step.chunks], np.int64)
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        flat_rows = np.repeat(rows, counts)
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1] - begins, counts)
        lengths = begins + counts
    else:
        starts, flat_rows, positions, lengths = np.arange(len(rows) + 1), rows, begins, begins + 1
    slots = state.page_table[flat_rows, positions // page_tokens].astype(np.int64)
    slots = slots * page_tokens + positions % page_tokens
    if size is not None:
        positions, slots = (np.concatenate((x, np.zeros(size - len(rows), np.int64))) for x in (positions, slots))
    return ForwardBatch(
        positions=inputs.put(positions),
        slots=inputs.put(slots),
        decode_rows=len(step.decode) if size is None else size,
        rows=rows,
        starts=starts,
        lengths=lengths,
        page_table=state.page_table[rows, : int(lengths.max()) // page_tokens + 1],
        pages=pages,
        inputs=inputs,
        is_static=size is not None,
    )


def chunk_tokens(step: StepPlan, state: Rows) -> Array:
    """(tokens,) int64: the chunks' tokens behind one another."""
    parts = [state.tokens[chunk.row, chunk.start : chunk.start + chunk.count] for chunk in step.chunks]
    return np.concatenate(parts).astype(np.int64)


def last_places(step: StepPlan) -> Array:
    """(sampling rows,) int64: where each sampling row's last token stands in the batch."""
    ends = len(step.decode) + np.cumsum([chunk.count for chunk in step.chunks])
    last = [end - 1 for end, chunk in zip(ends, step.chunks, strict=True) if chunk.is_last]
    return np.array([*range(len(step.decode)), *last], np.int64)
