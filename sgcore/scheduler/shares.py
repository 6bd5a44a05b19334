"""Rows, shared equally between the bodies whose requests want them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sgcore.scheduler.sequence import Sequence

MAX_GIVEN_UP = 16
"""Rows that bodies give up for others in one step. Bounds its cost, and what is computed again in the next one."""


class Shares:
    """How many rows each body has; the next one goes to who has the fewest."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()

    def take_row(self, sequence: Sequence) -> None:
        """A request runs."""
        self._rows[sequence.body] += 1

    def give_row(self, sequence: Sequence) -> None:
        """A request runs no longer."""
        self._rows[sequence.body] -= 1
        if not self._rows[sequence.body]:
            del self._rows[sequence.body]

    def in_turn(self, waiting: Iterable[Sequence]) -> list[tuple[int, Sequence]]:
        """(rows that its body will have before it, request), the fewest first; otherwise in the order given."""
        rows = self._rows.copy()
        turns = []
        for sequence in waiting:
            turns.append((rows[sequence.body], sequence))
            rows[sequence.body] += 1
        return sorted(turns, key=lambda turn: turn[0])

    def rows(self, sequence: Sequence) -> int:
        """Rows of a request's body."""
        return self._rows[sequence.body]

    def largest(self, least: int) -> str | None:
        """The body with the most rows, if it has `least` rows."""
        body = max(self._rows, key=self._rows.__getitem__, default=None)
        return body if body is not None and self._rows[body] >= least else None
