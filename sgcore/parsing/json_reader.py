"""JSON that arrives in pieces: where a value ends, with every character passed on as soon as it is certain."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator

from sgcore.parsing.cursor import Cursor, Waits

SPACE = re.compile(r"\s*")
PLAIN = re.compile(r"[\s,:\w.+-]*")
"""Outside strings, between brackets."""
SCALAR = re.compile(r"[\w.+-]*")
INSIDE = re.compile(r'[^"\\]*')
CLOSES = {"{": "}", "[": "]"}
Send = Callable[[str], None]


class Broken(Exception):
    """This is no JSON, or it ends too early."""


def _nowhere(text: str) -> None:
    pass


class JsonReader:
    """Reads values at a cursor. Brackets and quotes decide where a value ends; what is between isn't checked."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor

    def next(self) -> Generator[None, None, str]:
        """The next character that is no white space, not taken. Raises `Broken` at the end."""
        yield from self.cursor.skip(SPACE)
        char = yield from self.cursor.peek()
        if not char:
            raise Broken
        return char

    def expect(self, char: str) -> Waits:
        """Take this character. Raises `Broken` if it is another."""
        if (yield from self.next()) != char:
            raise Broken
        self.cursor.pos += 1

    def string(self) -> Generator[None, None, str]:
        """A string's value."""
        if (yield from self.next()) != '"':
            raise Broken
        parts: list[str] = []
        yield from self._string(parts.append)
        try:
            value: str = json.loads("".join(parts), strict=False)
            value.encode()  # half a surrogate pair, which JSON can spell, has no UTF-8
        except ValueError as error:
            raise Broken from error
        return value

    def value(self, send: Send = _nowhere) -> Waits:
        """Past one value. What of it was read when `Broken` is raised has been sent."""
        char = yield from self.next()
        if char == '"':
            yield from self._string(send)
        elif char in CLOSES:
            yield from self._brackets(send)
        else:
            start = self.cursor.pos
            yield from self.cursor.skip(SCALAR)
            if self.cursor.pos == start:
                raise Broken
            send(self.cursor.text[start : self.cursor.pos])

    def _brackets(self, send: Send) -> Waits:
        cursor = self.cursor
        expected: list[str] = []
        while True:
            run = PLAIN.match(cursor.text, cursor.pos)
            if run and run.end() > cursor.pos:
                send(cursor.take(run.end()))
            char = yield from cursor.peek()
            if char in CLOSES:
                expected.append(CLOSES[char])
            elif char == '"':
                yield from self._string(send)
                continue
            elif expected and char == expected[-1]:
                expected.pop()
            elif PLAIN.fullmatch(char) and char:
                continue
            else:
                raise Broken
            send(cursor.take(cursor.pos + 1))
            if not expected:
                return

    def _string(self, send: Send) -> Waits:
        """Past a string, from its opening quote. An escape is never sent in two."""
        cursor = self.cursor
        send(cursor.take(cursor.pos + 1))
        while True:
            run = INSIDE.match(cursor.text, cursor.pos)
            if run and run.end() > cursor.pos:
                send(cursor.take(run.end()))
            char = yield from cursor.peek()
            if not char:
                raise Broken
            while char == "\\" and len(cursor.text) < cursor.pos + 2:
                if cursor.is_last:
                    raise Broken
                yield
            if char == "\\" or char == '"':
                send(cursor.take(cursor.pos + (2 if char == "\\" else 1)))
            if char == '"':
                return
