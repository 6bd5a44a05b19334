"""Masks of one step, filled in threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from sgcore.api import Masks
from sgcore.constraints.progress import Progress
from sgcore.errors import ConstraintError

WAIT_LIMIT_S = 1.0
MOST_THREADS = 8
EVERYTHING = -1


class Filling:
    """The masks of one step on their way: `masks` has a row for each output, all bits set where there is none."""

    def __init__(self, outputs: Sequence[Progress | None], words: int) -> None:
        self.masks: Masks = np.full((len(outputs), words), EVERYTHING, np.int32)
        self.failures: dict[int, ConstraintError] = {}
        """Place -> why this output can't go on."""
        self._outputs = {place: output for place, output in enumerate(outputs) if output is not None}
        self._todo = list(self._outputs.items())
        self._missing = set(self._outputs)
        self._threads: list[Future[None]] = []

    def start(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self._threads = [pool.submit(self._work) for _ in range(min(threads, len(self._todo)))]

    def _work(self) -> None:
        """Fill rows until none is left; a slow one keeps its own thread alone."""
        while self._todo:
            try:
                place, output = self._todo.pop()
            except IndexError:
                return
            self._fill(place, output)
            self._missing.discard(place)

    def _fill(self, place: int, output: Progress) -> None:
        try:
            output.fill(self.masks[place])
        except ConstraintError as error:
            self.failures[place] = error

    def wait(self) -> None:
        """Until all rows are filled. One that takes very long is given up, and written to no longer."""
        wait(self._threads, WAIT_LIMIT_S)
        self._todo.clear()
        late = set(self._missing)
        if late:
            self.masks = self.masks.copy()
        for place in late:
            message = f"the constraint is too complex: one token took over {WAIT_LIMIT_S:.0f} s"
            self.failures[place] = ConstraintError(message, 500)
            self._outputs[place].grammar.has_failed = True
        for place in self.failures:
            self.masks[place] = EVERYTHING


class MaskFiller:
    """Threads that fill masks. They start with the first step that needs one."""

    def __init__(self, vocab_size: int) -> None:
        self._words = -(-vocab_size // 32)
        self._threads = max(1, min(os.cpu_count() or 1, MOST_THREADS))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="sgcore-masks")

    def start(self, outputs: Sequence[Progress | None]) -> Filling:
        filling = Filling(outputs, self._words)
        filling.start(self._pool, self._threads)
        return filling

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
