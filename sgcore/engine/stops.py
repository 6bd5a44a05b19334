"""Stop strings in a growing text, at a cost that does not grow with it."""

from __future__ import annotations


class StopStrings:
    """Finds the first of several strings in text that arrives in pieces, holding back what may begin one."""

    def __init__(self, stops: tuple[str, ...], keeps_stop: bool = False) -> None:
        self._stops = stops
        self._keeps_stop = keeps_stop
        self._held = ""

    def push(self, piece: str, is_last: bool = False) -> tuple[str, str | None]:
        """Text that may be shown now, and the stop string that ended it, if one did."""
        if not self._stops:
            return piece, None
        text = self._held + piece
        found = min(((text.find(stop), -len(stop), stop) for stop in self._stops if stop in text), default=None)
        if found is not None:
            place, _, stop = found
            self._held = ""
            return text[: place + (len(stop) if self._keeps_stop else 0)], stop
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
