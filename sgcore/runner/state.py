"""What steps hand to each other on the device, by row: the newest token and the pages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sgcore.runner.inputs import StepInputs
from sgcore.runner.rows import Rows
from sgcore.scheduler.step import StepPlan


@dataclass(slots=True)
class PageChanges:
    """Entries of the page table that a step changes."""

    places: Tensor
    pages: Tensor


class DeviceState:
    """One row more than the host's: padding reads and writes the last."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self._is_host = device.type == "cpu"
        self.width = rows.page_table.shape[1]
        self.newest = torch.zeros(len(rows.page_table), dtype=torch.int64, device=device)
        """The token that each row's next decode step reads."""
        table = torch.from_numpy(rows.page_table)
        self.pages = table if self._is_host else table.to(device)

    def put(self, step: StepPlan, inputs: StepInputs) -> PageChanges | None:
        """Put the page table's changes; None where there are none, or the table is the host's own."""
        changes = [(start.row, 0, start.pages) for start in step.joined] + step.pages
        if self._is_host or not changes:
            return None
        places = [np.arange(len(pages)) + (row * self.width + first) for row, first, pages in changes]
        pages = [np.asarray(pages, np.int32) for _, _, pages in changes]
        return PageChanges(inputs.put(np.concatenate(places)), inputs.put(np.concatenate(pages)))

    def apply(self, changes: PageChanges) -> None:
        self.pages.view(-1).index_copy_(0, changes.places, changes.pages)
