"""The text that a custom tool is called with, out of the arguments that a model writes for it."""

from __future__ import annotations

import json

import regex

ESCAPE = r'\\(?:["\\/bfnrt]|u(?![dD][89abAB])[0-9a-fA-F]{4}|u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})'
INSIDE = regex.compile(rf'(?:[^"\\]++|{ESCAPE})*+')
"""Of a JSON string what is certain: no half of an escape, nor of a pair of them that is one character."""


class InputText:
    """Takes arguments, JSON text, in pieces, and gives the value of their one member as it comes.

    Arguments that don't begin with that member are given as they are: some models write the bare text.
    """

    def __init__(self, member: str) -> None:
        self._opening = regex.compile(rf'\s*\{{\s*(?:"{regex.escape(member)}"\s*:\s*"|\}})')
        self._held = ""
        self._state = "begins"

    def add(self, fragment: str) -> str:
        """What this fragment adds to the text."""
        self._held += fragment
        if self._state == "begins":
            self._begin()
        if self._state == "inside":
            return self._inside()
        return self._taken(len(self._held)) if self._state == "bare" else ""

    def finish(self) -> str:
        """What was held back: a beginning that could still have become another."""
        return self._taken(len(self._held)) if self._state == "begins" else ""

    def _begin(self) -> None:
        match = self._opening.match(self._held, partial=True)
        if match is None:
            self._state = "bare"
        elif not match.partial:
            self._state = "ended" if self._taken(match.end()).endswith("}") else "inside"

    def _inside(self) -> str:
        match = INSIDE.match(self._held)
        end = match.end() if match else 0
        if self._held[end : end + 1] == '"':
            self._state = "ended"
        text: str = json.loads(f'"{self._taken(end)}"', strict=False)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _taken(self, end: int) -> str:
        taken, self._held = self._held[:end], self._held[end:]
        return taken
