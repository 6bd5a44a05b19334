"""The runner's state of every row, on the host: tokens, progress and page tables, changed by step plans alone."""

from __future__ import annotations

import numpy as np

from sgcore.scheduler.step import RowStart, StepPlan


class Rows:
    """Arrays indexed by row. `tokens` are those a row joined with; sampled ones stay on the device.

    `computed[row]` tokens are in the cache and `known[row]` are sampled or given, once every launched step is done.
    """

    def __init__(self, rows: int, context_tokens: int, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        self.tokens = np.zeros((rows, context_tokens + 1), np.int32)
        self.known = np.zeros(rows, np.int64)
        self.computed = np.zeros(rows, np.int64)
        self.page_table = np.zeros((rows + 1, context_tokens // page_tokens + 2), np.int32)
        """The last row is padding's: it has the scratch page alone."""

    def apply(self, step: StepPlan) -> None:
        """Rows that joined and pages that were appended."""
        for start in step.joined:
            self._join(start)
        for row, place, pages in step.pages:
            self.page_table[row, place : place + len(pages)] = pages

    def _join(self, start: RowStart) -> None:
        self.tokens[start.row, : len(start.tokens)] = start.tokens
        self.known[start.row] = len(start.tokens)
        self.computed[start.row] = start.computed
        self.page_table[start.row, : len(start.pages)] = start.pages

    def advance(self, step: StepPlan) -> None:
        """Count what a launched step computes and samples."""
        for chunk in step.chunks:
            self.computed[chunk.row] += chunk.count
        self.computed[step.decode] += 1
        self.known[sampling_rows(step)] += 1


def sampling_rows(step: StepPlan) -> list[int]:
    """Rows that sample in this step, in the order of `StepResult.tokens`."""
    return step.decode + [chunk.row for chunk in step.chunks if chunk.is_last]
