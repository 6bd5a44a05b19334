"""In which order waiting requests are tried."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice, zip_longest
from typing import Protocol

from sgcore.scheduler.sequence import Sequence

WINDOW = 128
"""Requests looked at in one step. Bounds the cost of a step whatever the queue's length."""

AGED_PASSES = 64
"""After so many later ones were admitted before it, a request goes first."""


class Queue(Protocol):
    """Waiting requests. `candidates` has the order of trial; an admitted one is then removed.

    `oldest` has the same ones at a lower price, and in no order that a policy made.
    """

    def append(self, sequence: Sequence) -> None: ...
    def append_front(self, sequence: Sequence) -> None: ...
    def remove(self, sequence: Sequence) -> None: ...
    def oldest(self) -> list[Sequence]: ...
    def candidates(self) -> list[Sequence]: ...
    def __len__(self) -> int: ...


class FirstComeFirstServed:
    """Order of arrival, where the first of each body comes before the second of any; every change is O(1)."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[str, OrderedDict[Sequence, None]] = OrderedDict()
        self._length = 0

    def append(self, sequence: Sequence) -> None:
        self._bodies.setdefault(sequence.body, OrderedDict())[sequence] = None
        self._length += 1

    def append_front(self, sequence: Sequence) -> None:
        self.append(sequence)
        self._bodies[sequence.body].move_to_end(sequence, last=False)
        self._bodies.move_to_end(sequence.body, last=False)

    def remove(self, sequence: Sequence) -> None:
        body = self._bodies[sequence.body]
        del body[sequence]
        self._length -= 1
        if not body:
            del self._bodies[sequence.body]

    def oldest(self) -> list[Sequence]:
        turns = zip_longest(*islice(self._bodies.values(), WINDOW))
        return list(islice((sequence for turn in turns for sequence in turn if sequence is not None), WINDOW))

    def candidates(self) -> list[Sequence]:
        return self.oldest()

    def __len__(self) -> int:
        return self._length


class LongestPrefixMatch(FirstComeFirstServed):
    """The longest cached prefix first among the oldest `WINDOW` requests; those passed over too often go before all."""

    def __init__(self, matched_tokens: Callable[[Sequence], int]) -> None:
        super().__init__()
        self._matched_tokens = matched_tokens

    def remove(self, sequence: Sequence) -> None:
        for overtaken in self.oldest():
            if overtaken is sequence:
                break
            overtaken.passes += 1
        super().remove(sequence)

    def candidates(self) -> list[Sequence]:
        return sorted(self.oldest(), key=self._order)

    def _order(self, sequence: Sequence) -> tuple[bool, int]:
        return sequence.passes < AGED_PASSES, -self._matched_tokens(sequence)


POLICIES: dict[str, Callable[[Callable[[Sequence], int]], Queue]] = {
    "fcfs": lambda matched_tokens: FirstComeFirstServed(),
    "lpm": LongestPrefixMatch,
}
"""Policy name -> its queue, made with a function that gives a request's cached prefix in tokens."""
