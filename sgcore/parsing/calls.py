"""Regions of tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sgcore.parsing.bodies import read_calls
from sgcore.parsing.cursor import Cursor, Cut, Waits
from sgcore.parsing.formats import CallForm, Region
from sgcore.parsing.json_reader import SPACE, Broken, JsonReader
from sgcore.parsing.pieces import Piece, Strand

ARGUMENTS = ("arguments", "parameters")
"""Models mix them up."""
IGNORED = ("id", "type")
"""Members of a call that are left out; any other makes it no call."""
SEPARATORS = re.compile(r"[\s,;\[\]]*")


class CallReader:
    """Reads one region after another. What turns out to be no call is handed back as content.

    A call is begun when its name, which a tool must have, and the beginning of its arguments are there. From then on
    everything up to the region's end belongs to it, even if it is broken.
    """

    def __init__(
        self, cursor: Cursor, pieces: list[Piece], content: Strand, tools: Sequence[Mapping[str, Any]]
    ) -> None:
        self._cursor = cursor
        self._pieces = pieces
        self._content = content
        self._tools = list(tools)
        self._names = {tool["function"]["name"] for tool in tools}
        self._json = JsonReader(cursor)
        self._count = 0
        self._arguments_end = 0
        self.unfinished = 0
        """The first call of the region that is being read; between regions, the next call."""

    def read(self, region: Region, opened: Any) -> Waits:
        """From behind the opening delimiter, matched by `opened`, to behind the region's end."""
        self._cursor.is_held = True
        start, body = opened.span()
        if region.form is None:
            is_read = yield from self._whole(region, start, body)
        elif region.form.capture:
            is_read = yield from self._direct(region, opened.groupdict().get(region.form.capture) or "")
        else:
            is_read = yield from self._objects(region, region.form)
        if not is_read:
            self._cursor.pos = max(body, start + 1)
            self._content.add(self._cursor.shown(start, self._cursor.pos))
        self._cursor.is_held = False
        self.unfinished = self._count

    # -- what is sent --------------------------------------------------------------------------------------------------

    def _begin(self, name: str) -> None:
        self._content.meet_markup()
        self._pieces.append(Piece("name", name, self._count))
        self._count += 1

    def _send(self, fragment: str) -> None:
        if fragment:
            self._pieces.append(Piece("arguments", fragment, self._count - 1))

    # -- kinds of body -------------------------------------------------------------------------------------------------

    def _objects(self, region: Region, form: CallForm) -> Generator[None, None, bool]:
        """Objects with a name and arguments: one, several, or a list of them. False if the first one is no call."""
        cursor, first = self._cursor, self._count
        end = cursor.pos
        while True:
            yield from cursor.skip(SEPARATORS)
            end = max(end, cursor.text.rfind("]", end, cursor.pos) + 1)
            if self._count > first and (yield from cursor.passes(region.closing)):
                return True
            if (yield from cursor.peek()) != "{" or not (yield from self._object(region, form)):
                cursor.pos = end
                return self._count > first
            end = cursor.pos

    def _object(self, region: Region, form: CallForm) -> Generator[None, None, bool]:
        """One object, from its brace. False if it is no call. What is broken behind the arguments isn't taken."""
        before = self._count
        try:
            yield from self._members(region, form)
        except Broken:
            if self._count > before:
                self._cursor.pos = self._arguments_end
        return self._count > before

    def _members(self, region: Region, form: CallForm) -> Waits:
        reader, name, arguments = self._json, None, None
        is_begun = False
        yield from reader.expect("{")
        while (yield from reader.next()) != "}":
            key = yield from reader.string()
            yield from reader.expect(":")
            if key == form.name_key and name is None:
                name = yield from self._name()
            elif key in (form.arguments_key, *ARGUMENTS) and name is not None and not is_begun:
                yield from self._arguments(region, name)
                is_begun = True
            elif key in (form.arguments_key, *ARGUMENTS) and name is None and arguments is None:
                arguments = yield from self._kept()
            elif key in IGNORED:
                yield from reader.value()
            else:
                raise Broken
            if (yield from reader.next()) == ",":
                self._cursor.pos += 1
        self._cursor.pos += 1
        if not is_begun and name is not None:
            self._begin(name)
            self._send(arguments or "{}")

    def _name(self) -> Generator[None, None, str]:
        name = yield from self._json.string()
        if name not in self._names:
            raise Broken
        return name

    def _kept(self) -> Generator[None, None, str]:
        """Arguments that can't be streamed. Some models write an object's JSON text as a string, or null for none."""
        if (yield from self._json.next()) == '"':
            return (yield from self._json.string())
        parts: list[str] = []
        yield from self._json.value(parts.append)
        text = "".join(parts)
        if text.startswith("{"):
            return text
        with suppress(ValueError):
            if json.loads(text) is None:
                return "{}"
        raise Broken

    def _arguments(self, region: Region, name: str) -> Waits:
        if (yield from self._json.next()) == "{":
            self._begin(name)
            yield from self._stream(region)
        else:
            arguments = yield from self._kept()
            self._begin(name)
            self._send(arguments)
        self._arguments_end = self._cursor.pos

    def _stream(self, region: Region) -> Waits:
        """Arguments as they come. What is broken goes on to the region's end as it is."""
        cursor = self._cursor
        cursor.is_held = False
        try:
            yield from self._json.value(self._send)
        except Broken:
            yield from self._rest(region)
            self._arguments_end = cursor.pos
            raise
        finally:
            cursor.is_held = True

    def _rest(self, region: Region) -> Waits:
        cursor = self._cursor
        watched = [region.closing] if region.closing else []
        while True:
            found, end = cursor.scan(watched)
            self._send(cursor.take(end))
            if found is not None or cursor.is_last:
                return
            yield

    def _direct(self, region: Region, name: str) -> Generator[None, None, bool]:
        """Arguments alone; the delimiter had the name."""
        name = name.strip()
        if name not in self._names:
            return False
        yield from self._cursor.skip(SPACE)
        if (yield from self._cursor.passes(region.closing)) or not (yield from self._cursor.peek()):
            self._begin(name)
            self._send("{}")
            return True
        if (yield from self._cursor.peek()) != "{":
            return False
        self._begin(name)
        with suppress(Broken):
            yield from self._stream(region)
        end = self._cursor.pos
        yield from self._cursor.skip(SPACE)
        if not (yield from self._cursor.passes(region.closing)):
            self._cursor.pos = end
        return True

    def _whole(self, region: Region, start: int, body: int) -> Generator[None, None, bool]:
        """A region that transformers reads when it has ended."""
        cursor = self._cursor
        watched = [region.closing] if region.closing else []
        found, cursor.pos = cursor.scan(watched)
        try:
            while found is None and not cursor.is_last:
                yield
                found, cursor.pos = cursor.scan(watched)
        except Cut:
            found, cursor.pos = cursor.scan(watched)
            if found is None:
                raise
        if found is None and watched:
            return False
        end = found[1].end() if found else len(cursor.text)
        body_end = found[1].start() if found else end
        calls = read_calls(region, cursor.text[start:end], cursor.text[body:body_end], self._tools)
        if not calls or any(name not in self._names for name, _ in calls):
            return False
        cursor.pos = end
        for name, arguments in calls:
            self._begin(name)
            self._send(arguments)
        return True
