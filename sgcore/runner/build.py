"""From a step plan and the state of the rows to a flat batch: decode rows first, then chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from sgcore.runner.batch import ForwardBatch, StaticSize
from sgcore.runner.inputs import StepInputs
from sgcore.runner.rows import Rows
from sgcore.scheduler.step import StepPlan

Array = np.ndarray[Any, Any]


def build_batch(
    step: StepPlan, state: Rows, pages: Tensor, inputs: StepInputs, size: StaticSize | None = None
) -> ForwardBatch:
    """`size` makes the batch static; padding tokens have position 0 and the scratch page's first slot."""
    decoding = len(step.decode)
    begin, tokens = (decoding, step.tokens) if size is None else (size.decode_rows, size.tokens)
    rows = np.array(step.decode + [chunk.row for chunk in step.chunks], np.int64)
    begins = state.computed[rows]
    positions, slots = np.zeros(tokens, np.int64), np.zeros(tokens, np.int64)
    positions[:decoding] = begins[:decoding]
    slots[:decoding] = _slots(state, rows[:decoding], begins[:decoding])
    counts, starts = np.ones(len(rows), np.int64), np.arange(len(rows))
    if step.chunks:
        sizes = np.array([chunk.count for chunk in step.chunks], np.int64)
        offsets = np.cumsum(sizes) - sizes
        counts[decoding:], starts[decoding:] = sizes, begin + offsets
        here = slice(begin, begin + int(sizes.sum()))
        within = np.arange(here.stop - begin) - np.repeat(offsets - begins[decoding:], sizes)
        positions[here], slots[here] = within, _slots(state, np.repeat(rows[decoding:], sizes), within)
    lengths = begins + counts
    return ForwardBatch(
        positions=inputs.put(positions),
        slots=inputs.put(slots),
        decode_rows=decoding,
        rows=rows,
        starts=starts,
        counts=counts,
        lengths=lengths,
        page_table=state.page_table[rows, : int(lengths.max()) // state.page_tokens + 1],
        pages=pages,
        inputs=inputs,
        size=size,
    )


def _slots(state: Rows, rows: Array, positions: Array) -> Array:
    """(tokens,) int64: where the pool has the tokens at `positions` of `rows`."""
    page, offset = np.divmod(positions, state.page_tokens)
    return state.page_table[rows, page].astype(np.int64) * state.page_tokens + offset


def chunk_tokens(step: StepPlan, state: Rows, size: StaticSize | None) -> Array:
    """(tokens,) int64: the chunks' tokens behind one another; those of a static batch are padded with 0."""
    parts = [state.tokens[chunk.row, chunk.start : chunk.start + chunk.count] for chunk in step.chunks]
    if size is not None:
        parts.append(np.zeros(size.chunk_tokens - sum(map(len, parts)), np.int32))
    return np.concatenate(parts).astype(np.int64)


def last_places(step: StepPlan, batch: ForwardBatch) -> Array:
    """(sampling rows,) int64: where each sampling row's last token stands in the batch; any place if no row samples."""
    is_sampled = np.array([True] * len(step.decode) + [chunk.is_last for chunk in step.chunks])
    places = (batch.starts + batch.counts - 1)[is_sampled].tolist() or [0]
    return padded(places, batch.size and batch.size.sampling_rows, 0)


def padded_rows(rows: list[int], size: int | None, state: Rows) -> Array:
    """Places in the device's state."""
    return padded(rows, size, state.scratch)


def padded(values: list[int], size: int | None, padding: int) -> Array:
    return np.array(values if size is None else values + [padding] * (size - len(values)), np.int64)
