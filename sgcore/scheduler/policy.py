"""In which order waiting requests are tried."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

from sgcore.scheduler.sequence import Sequence

WINDOW = 128
"""Requests looked at in one step. Bounds the cost of a step whatever the queue's length."""

AGED_PASSES = 64
"""After so many later ones were admitted before it, a request goes first."""


class Queue(Protocol):
    """Waiting requests. `candidates` yields the order of trial; an admitted one is then removed."""

    def append(self, sequence: Sequence) -> None: ...
    def append_front(self, sequence: Sequence) -> None: ...
    def remove(self, sequence: Sequence) -> None: ...
    def candidates(self) -> Iterator[Sequence]: ...
    def __len__(self) -> int: ...


class FirstComeFirstServed:
    """Order of arrival; every change is O(1)."""

    def __init__(self) -> None:
        self._queue: OrderedDict[Sequence, None] = OrderedDict()

    def append(self, sequence: Sequence) -> None:
        self._queue[sequence] = None

    def append_front(self, sequence: Sequence) -> None:
        self._queue[sequence] = None
        self._queue.move_to_end(sequence, last=False)

    def remove(self, sequence: Sequence) -> None:
        del self._queue[sequence]

    def candidates(self) -> Iterator[Sequence]:
        yield from list(islice(self._queue, WINDOW))

    def __len__(self) -> int:
        return len(self._queue)


class LongestPrefixMatch(FirstComeFirstServed):
    """The longest cached prefix first among the oldest `WINDOW` requests; those passed over too often go before all."""

    def __init__(self, matched_tokens: Callable[[Sequence], int]) -> None:
        super().__init__()
        self._matched_tokens = matched_tokens

    def remove(self, sequence: Sequence) -> None:
        for overtaken in islice(self._queue, WINDOW):
            if overtaken is sequence:
                break
            overtaken.passes += 1
        super().remove(sequence)

    def candidates(self) -> Iterator[Sequence]:
        yield from sorted(super().candidates(), key=self._order)

    def _order(self, sequence: Sequence) -> tuple[bool, int]:
        return sequence.passes < AGED_PASSES, -self._matched_tokens(sequence)


POLICIES: dict[str, Callable[[Callable[[Sequence], int]], Queue]] = {
    "fcfs": lambda matched_tokens: FirstComeFirstServed(),
    "lpm": LongestPrefixMatch,
}
"""Policy name -> its queue, made with a function that gives a request's cached prefix in tokens."""
