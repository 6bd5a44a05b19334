"""Where one output stands in its grammar."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from sgcore.api import Grammar, Masks
from sgcore.constraints.bans import Bans
from sgcore.errors import ConstraintError

T = TypeVar("T")
STEP_LIMIT_S = 0.05
"""Processor time that one token of one output may take; usual grammars take a thousandth of it."""


class Progress:
    """A matcher, and whether it has begun: before the tokens `after` were generated the output is free.

    Bans hold from the beginning. A forced token could be banned, so that with them each token is sampled.
    """

    def __init__(
        self, grammar: Grammar, after: Sequence[int] = (), takes_forced: bool = True, bans: Bans | None = None
    ) -> None:
        self.grammar = grammar
        self.matcher = grammar.start()
        self._bans = bans
        self._has_begun = not after
        self._after = list(after)
        self._newest: deque[int] = deque(maxlen=len(after))
        self._takes_forced = takes_forced and bans is None

    @property
    def is_active(self) -> bool:
        """Whether a mask restricts the next token."""
        return self._has_begun or self._bans is not None

    @property
    def is_complete(self) -> bool:
        """Whether the output has to end."""
        return self._has_begun and self.matcher.is_complete

    def fill(self, mask: Masks) -> None:
        """Write which tokens may come next into `mask`, whose bits are all set. Raises ConstraintError."""
        if self._has_begun:
            self._guarded(lambda: self.matcher.fill(mask))
        if self._bans is not None:
            self._bans.apply(mask)

    def begin(self) -> list[int]:
        """The tokens that every output begins with. Raises as `advance` does."""
        return self._guarded(lambda: self._take_forced(0))

    def advance(self, token: int, in_flight: int) -> list[int]:
        """Take a sampled token; what has to follow it, where that saves a step beside `in_flight` launched ones.

        Raises ConstraintError (500) if the grammar doesn't allow the token, or takes too long over it.
        """
        return self._guarded(lambda: self._advance(token, in_flight))

    def _advance(self, token: int, in_flight: int) -> list[int]:
        if self._bans is not None:
            self._bans.accept(token)
        if self._has_begun:
            self.matcher.accept([token])
        else:
            self._newest.append(token)
            self._has_begun = list(self._newest) == self._after
        return self._take_forced(in_flight)

    def _take_forced(self, in_flight: int) -> list[int]:
        if not self._has_begun or not self._takes_forced:
            return []
        forced = list(self.matcher.forced())
        if len(forced) <= in_flight:
            return []
        self.matcher.accept(forced)
        return forced

    def _guarded(self, work: Callable[[], T]) -> T:
        began = time.thread_time()
        try:
            done = work()
            check_time(began)
        except Exception as error:  # a backend's bug is its own output's trouble alone
            self.grammar.has_failed = True
            raise ConstraintError(reason(error), 500) from error
        return done


def reason(error: Exception) -> str:
    """What a client is told: a backend's own words, or which bug it has."""
    return str(error) if isinstance(error, ConstraintError) else f"{type(error).__name__}: {error}"


def check_time(began: float, limit_s: float = STEP_LIMIT_S) -> None:
    """Raise ConstraintError if this thread has worked for too long since `began`."""
    spent = time.thread_time() - began
    if spent > limit_s:
        raise ConstraintError(f"the constraint is too complex: one token took {1e3 * spent:.0f} ms of work")
