"""Stop strings in a growing text, at a cost that does not grow with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

FIRST_MARK, MARKS = 0xD800, 0x800
"""Surrogates: characters that no decoded text has."""


class StopStrings:
    """Finds the string of several that ends first in text that arrives in pieces, holding back what may begin one."""

    def __init__(self, stops: tuple[str, ...], keeps_stop: bool = False) -> None:
        self._stops = stops
        self._keeps_stop = keeps_stop
        self._held = ""

    def push(self, piece: str, is_last: bool = False) -> tuple[str, str | None]:
        """Text that may be shown now, and the stop string that ended it, if one did."""
        if not self._stops:
            return piece, None
        text = self._held + piece
        ends = ((text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text)
        found = min(ends, default=None)
        if found is not None:
            end, _, stop = found
            self._held = ""
            return text[: end if self._keeps_stop else end - len(stop)], stop
        held = 0 if is_last else self._possible_start(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], None

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(max(map(len, self._stops)) - 1, len(text))
        for size in range(longest, 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0


class HiddenTokens:
    """Special tokens that stop strings spell and the shown text leaves out: a mark in the text stands for each."""

    def __init__(self, special: Mapping[int, str], stops: tuple[str, ...]) -> None:
        """`special`: texts of the tokens that aren't shown."""
        spelt = [token for token, text in special.items() if any(text in stop for stop in stops)][:MARKS]
        self._marks = {token: chr(FIRST_MARK + place) for place, token in enumerate(spelt)}
        self._unmark = dict.fromkeys(map(ord, self._marks.values()))
        self._originals = {self._with_marks(stop, special): stop for stop in stops}
        self.stops = tuple(dict.fromkeys((*stops, *self._originals)))
        """The stop strings as they are, for a text that spells them in other tokens, and with marks."""

    def _with_marks(self, stop: str, special: Mapping[int, str]) -> str:
        for token in sorted(self._marks, key=lambda token: -len(special[token])):
            stop = stop.replace(special[token], self._marks[token])
        return stop

    def marked(self, tokens: Sequence[int], is_last: bool, push: Callable[[list[int], bool], str]) -> str:
        """The text of tokens that `push` decodes, with the marks."""
        parts, run = list[str](), list[int]()
        for token in tokens:
            run.append(token)
            if token in self._marks:
                parts += push(run, False), self._marks[token]
                run = []
        return "".join((*parts, push(run, is_last)))

    def unmarked(self, text: str, stop: str | None) -> tuple[str, str | None]:
        """What `StopStrings` gave, as the client sees it."""
        if stop is None:
            return text.translate(self._unmark), None
        before, original = text.removesuffix(stop), self._originals.get(stop, stop)
        return before.translate(self._unmark) + (original if before != text else ""), original
