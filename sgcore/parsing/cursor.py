"""Text that arrives in pieces, and a place in it."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

Waits = Generator[None, None, None]
"""Runs until it needs more text, then yields; resumed when there is some, or when there will be no more."""


class Cut(Exception):
    """The text ends here although its writer would have gone on: what still waits for more can't be told."""


KEPT_CHARS = 64
FORGOTTEN_CHARS = 4096


@dataclass(frozen=True)
class Delimiter:
    """The text that opens or closes a region. `pattern` is one of the `regex` module, which matches partially."""

    pattern: Any
    is_final: bool
    """A match at the end of the text so far can't grow: it is a literal that begins no other."""

    def can_grow(self, match: Any, end: int) -> bool:
        """Whether more text could change this match."""
        return bool(match.end() == end and (match.start() == end or not self.is_final))


class Cursor:
    """The text so far, without what nobody needs any more."""

    def __init__(self) -> None:
        self.text = ""
        self.pos = 0
        self.is_last = False
        """No more text will come."""
        self.is_held = False
        """Somebody may go back: nothing is forgotten."""
        self.shown_from = 0
        """Text before here is the prompt's, which is read and not shown; below 0 it is forgotten already."""

    def add(self, text: str) -> None:
        """Append what arrived."""
        if self.pos > FORGOTTEN_CHARS and not self.is_held:
            cut = self.pos - KEPT_CHARS
            self.text, self.pos = self.text[cut:], KEPT_CHARS
            self.shown_from -= cut
        self.text += text

    def take(self, end: int) -> str:
        """The text up to `end`, which is where the cursor stands then."""
        taken = self.text[self.pos : end]
        self.pos = end
        return taken

    def shown(self, start: int, end: int) -> str:
        """The text from `start` to `end`, as far as it is shown."""
        return self.text[max(start, self.shown_from) : end]

    def peek(self) -> Generator[None, None, str]:
        """The next character, not taken; empty at the end."""
        while self.pos == len(self.text):
            if self.is_last:
                return ""
            yield
        return self.text[self.pos]

    def skip(self, run: re.Pattern[str]) -> Waits:
        """Past all characters that `run` matches; the next one is none of them."""
        while True:
            match = run.match(self.text, self.pos)
            self.pos = match.end() if match else self.pos
            if self.pos < len(self.text) or self.is_last:
                return
            yield

    def passes(self, delimiter: Delimiter | None) -> Generator[None, None, bool]:
        """Whether the delimiter stands here; if so, the cursor is behind it."""
        while delimiter is not None:
            match = delimiter.pattern.match(self.text, self.pos, partial=not self.is_last)
            if match is None:
                break
            if self.is_last or not (match.partial or delimiter.can_grow(match, len(self.text))):
                self.pos = match.end()
                return True
            yield
        return False

    def scan(self, watched: Sequence[Delimiter]) -> tuple[tuple[int, Any] | None, int]:
        """The first delimiter that certainly stands ahead (its place among `watched`, its match), and up to where
        the text holds none: a beginning that may become one is not passed.

        Of several at one place the longest counts, then the first of `watched`.
        """
        end = held = len(self.text)
        best: tuple[int, Any] | None = None
        best_key = (end + 1, 0)
        for place, delimiter in enumerate(watched):
            match = delimiter.pattern.search(self.text, self.pos, partial=not self.is_last)
            if match is None:
                continue
            if not self.is_last and (match.partial or delimiter.can_grow(match, end)):
                held = min(held, match.start())
                continue
            key = (match.start(), match.start() - match.end())
            if key < best_key:
                best, best_key = (place, match), key
        if best is not None and (best[1].start() < held or self.is_last):
            return best, best[1].start()
        return None, held
