"""Tokens that an output may not have, whatever else it follows."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np

from sgcore.api import Grammar, Masks, Matcher
from sgcore.errors import ConstraintError


class Bans:
    """All tokens but the allowed ones, and of each bad word its last token behind the others."""

    def __init__(self, allowed: Sequence[int], words: Sequence[Sequence[int]], vocab_size: int) -> None:
        """`allowed`: empty, where all are. `words`: the tokens of each bad word, one at least."""
        is_open = np.zeros(-(-vocab_size // 32) * 32, np.bool_)
        is_open[list(allowed) if allowed else slice(vocab_size)] = True
        is_open[[word[0] for word in words if len(word) == 1]] = False
        self._open: Masks = np.packbits(is_open, bitorder="little").view(np.int32)
        self._endings: dict[int, list[tuple[list[int], int]]] = defaultdict(list)
        for *beginning, last in words:
            if beginning:
                self._endings[beginning[-1]].append((beginning, last))
        self._newest: deque[int] = deque(maxlen=max(map(len, words), default=1))

    def accept(self, token: int) -> None:
        """Take the output's next token."""
        self._newest.append(token)

    def apply(self, mask: Masks) -> None:
        """Clear the bits of the banned tokens. Raises ConstraintError (400) if none is left."""
        mask &= self._open
        newest = list(self._newest)
        for beginning, last in self._endings.get(newest[-1], ()) if newest else ():
            if newest[-len(beginning) :] == beginning:
                mask.view(np.uint32)[last // 32] &= np.uint32(0xFFFFFFFF ^ 1 << last % 32)
        if not mask.any():
            raise ConstraintError("no token is left that the constraint, allowed_token_ids and bad_words allow")


class Anything(Grammar, Matcher):
    """The grammar of outputs that have none, and its matcher."""

    size_bytes = 0

    def start(self) -> Anything:
        return self

    def accept(self, tokens: Sequence[int]) -> None:
        """Every token is allowed."""

    def fill(self, mask: Masks) -> None:
        mask[:] = -1

    @property
    def is_complete(self) -> bool:
        return False
