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
    """Places are those of `Rows`, padding's included."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self._is_host = device.type == "cpu"
        self.width = rows.page_table.shape[1]
        self.newest = torch.zeros(len(rows.known), dtype=torch.int64, device=device)
        """The token that each row's next decode step reads."""
        self._host_pages = rows.page_table
        table = torch.from_numpy(rows.page_table)
        self.pages = table if self._is_host else table.to(device)

    def put(self, step: StepPlan, inputs: StepInputs) -> PageChanges | None:
        """Put the page table's changes; None where there are none, or the table is the host's own.

        Values are read from the host's table, which has them already: a place that changes twice has one value.
        """
        changes = [(start.row, 0, start.pages) for start in step.joined] + step.pages
        if self._is_host or not changes:
            return None
        places = np.concatenate([np.arange(len(pages)) + (row * self.width + at) for row, at, pages in changes])
        return PageChanges(inputs.put(places), inputs.put(self._host_pages.reshape(-1)[places]))

    def apply(self, changes: PageChanges) -> None:
        self.pages.view(-1).index_copy_(0, changes.places, changes.pages)
