"""Regular expressions that end a growing text, within bounds of time."""

from __future__ import annotations

import time
from typing import Any

MAX_MATCH_CHARS = 1024
"""Characters of a match, so that no more of the text than that is held back and looked at again."""
BURST_S, CHARACTER_S = 0.05, 2e-4
"""Processor time that a text may take at once, and for each of its characters beyond that.

An expression takes about 4 µs a character, and 30 µs where it holds back as much as it may.
"""


def compiled(source: str) -> Any:
    """The expression, ready to search. Raises ValueError that says what is wrong with it."""
    import regex

    try:
        pattern = regex.compile(source)
        if pattern.search("", timeout=BURST_S) is not None:
            raise ValueError("it matches the empty text")
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
    except TimeoutError as error:
        raise ValueError("it takes too long") from error
    return pattern


class StopPatterns:
    """Finds the first end of a match in text that arrives in pieces, holding back what may begin one.

    Every character is taken for the last one once, so that the pieces don't matter.
    """

    def __init__(self, sources: tuple[str, ...], keeps_stop: bool = False) -> None:
        self._sources = sources
        self._patterns = [compiled(source) for source in sources]
        self._starts = [0] * len(sources)
        """Where a match of each can begin at the earliest."""
        self._keeps_stop = keeps_stop
        self._text = ""
        self._shown = 0
        self._left_s = BURST_S

    def push(self, piece: str, is_last: bool = False) -> tuple[str, str | None]:
        """Text that may be shown now, and the expression that ended it, if one did.

        Raises TimeoutError for an expression that takes too long.
        """
        if not self._sources:
            return piece, None
        known = len(self._text)
        self._text += piece
        self._left_s = min(self._left_s + CHARACTER_S * len(piece), BURST_S)
        for end in range(known + 1, len(self._text) + 1):
            for place, source in enumerate(self._sources):
                match = self._match(place, end)
                if match is not None:
                    return self._take(match.end() if self._keeps_stop else match.start()), source
        return self._take(len(self._text) if is_last else min(self._starts)), None

    def _match(self, place: int, end: int) -> Any:
        """A match in the text up to `end`; remembers where one that isn't complete begins."""
        found = self._search(place, end)
        if found is not None and not found.partial:
            return found
        self._starts[place] = end if found is None else max(found.start(), end - MAX_MATCH_CHARS)
        return None

    def _search(self, place: int, end: int) -> Any:
        while self._left_s > 0:
            began = time.thread_time()
            try:
                start = self._starts[place]
                return self._patterns[place].search(self._text, start, end, partial=True, timeout=self._left_s)
            except TimeoutError:
                pass  # the library's clock is the whole process's
            finally:
                self._left_s -= time.thread_time() - began
        raise TimeoutError(f"the stop_regex {self._sources[place]!r} takes too long; simplify it")

    def _take(self, end: int) -> str:
        text = self._text[self._shown : end]
        self._shown = max(self._shown, end)
        return text
