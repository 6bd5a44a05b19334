"""Requests that were in a step that failed, run apart until it is known which of them it fails for."""

from __future__ import annotations

from collections.abc import Collection

from sgcore.scheduler.sequence import Sequence


class Isolation:
    """Suspects in groups, of which one runs at a time and nobody else beside it.

    A group that fails is halved, so that one culprit among n takes about 4 log2(n) steps to find. A suspect is free a
    token beyond where it was when the step failed, since the first step computes in a chunk what may have been decoded.
    A failure that doesn't come again ends nobody.
    """

    def __init__(self) -> None:
        self._groups: list[list[Sequence]] = []
        self._goals: dict[Sequence, int] = {}
        """Computed tokens at which a suspect is free."""

    @property
    def is_active(self) -> bool:
        """Whether any suspect is left."""
        return bool(self._groups)

    def accuse(self, suspects: Collection[Sequence]) -> Sequence | None:
        """Takes the rows of a failed step, before they are rolled back; returns the culprit if there is only one."""
        self._groups = [[s for s in group if s not in suspects] for group in self._groups]
        if len(suspects) == 1:
            return next(iter(suspects))
        for sequence in suspects:
            self._goals[sequence] = max(sequence.computed + 1, self._goals.get(sequence, 0))
        by_age = sorted(suspects, key=lambda s: s.admitted)
        # What has just come is the likelier culprit, so the newer half runs first.
        self._groups += [by_age[: len(by_age) // 2], by_age[len(by_age) // 2 :]]
        self.free()
        return None

    def free(self) -> None:
        """Lets suspects go that have ended, left their row or reached their goal."""
        while self._groups:
            self._groups[-1] = [s for s in self._groups[-1] if s.row >= 0 and s.confirmed < self._goals[s]]
            if self._groups[-1]:
                return
            self._groups.pop()
        self._goals.clear()

    def acquit(self) -> None:
        """Lets the present group go, where nothing of it can run."""
        self._groups.pop()
        self.free()

    def may_run(self, sequence: Sequence) -> bool:
        """Whether a row takes part in the next step."""
        return not self._groups or sequence in self._groups[-1]
