"""Where one output stands in its grammar."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from sgcore.api import Matcher
from sgcore.errors import ConstraintError

STEP_LIMIT_S = 0.05
"""Processor time that one token of one output may take; usual grammars take a thousandth of it."""


class Progress:
    """A matcher, and whether it has begun: before the tokens `after` were generated the output is free."""

    def __init__(self, matcher: Matcher, after: Sequence[int] = (), takes_forced: bool = True) -> None:
        self.matcher = matcher
        self.is_active = not after
        self._after = list(after)
        self._newest: deque[int] = deque(maxlen=len(after))
        self._takes_forced = takes_forced

    @property
    def is_complete(self) -> bool:
        """Whether the output has to end."""
        return self.is_active and self.matcher.is_complete

    def begin(self) -> list[int]:
        """The tokens that every output begins with."""
        return self._take_forced(0) if self.is_active else []

    def advance(self, token: int, in_flight: int) -> list[int]:
        """Take a sampled token; what has to follow it, where that saves a step beside `in_flight` launched ones.

        Raises ConstraintError if the grammar doesn't allow the token, or takes too long over it.
        """
        began = time.thread_time()
        if self.is_active:
            self.matcher.accept([token])
        else:
            self._newest.append(token)
            self.is_active = list(self._newest) == self._after
        forced = self._take_forced(in_flight) if self.is_active else []
        check_time(began)
        return forced

    def _take_forced(self, in_flight: int) -> list[int]:
        forced = list(self.matcher.forced()) if self._takes_forced else []
        if len(forced) <= in_flight:
            return []
        self.matcher.accept(forced)
        return forced


def check_time(began: float) -> None:
    """Raise ConstraintError if this thread has worked for too long since `began`."""
    spent = time.thread_time() - began
    if spent > STEP_LIMIT_S:
        raise ConstraintError(f"the constraint is too complex: one token took {1e3 * spent:.0f} ms of work")
