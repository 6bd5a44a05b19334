"""One parser for all formats: text in, in any pieces, and pieces of the message out.

The format says where regions begin and end, in the words of transformers' response templates. transformers has a parser
for them too; it drops delimiters and text that it can't place, ends a call at a delimiter inside a JSON string, raises
on malformed calls, and gives arguments only when a call has ended. Here nothing that the model wrote is lost, and
malformed calls are content.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sgcore.parsing.calls import CallReader
from sgcore.parsing.cursor import Cursor, Cut, Delimiter, Waits
from sgcore.parsing.formats import Format, Region
from sgcore.parsing.pieces import Piece, Strand, joined


class Parser:
    """Parses one answer. Splitting the text differently gives the same message; no text makes it raise.

    `turn` is what the prompt has of the answer already (`Format.turn`). Without `tools` calls are content. Names that
    no tool has are no calls. Without `separate_reasoning` reasoning stays in the content, with its delimiters.
    """

    def __init__(
        self,
        format: Format,
        turn: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        separate_reasoning: bool = True,
    ) -> None:
        format = format if tools else format.without_calls()
        self._cursor = Cursor()
        self._pieces: list[Piece] = []
        self._content = Strand("content", self._pieces)
        self._reasoning = Strand("reasoning", self._pieces)
        self._calls = CallReader(self._cursor, self._pieces, self._content, tools)
        self._separates = separate_reasoning
        self._discards = format.discards
        self._watched = _watched(format)
        self._is_reasoning = False
        self.reasoning: list[tuple[int, int | None]] = []
        """Where regions of reasoning begin and end in the answer's text, delimiters included; None: not yet."""
        self._first_call = 0
        self._run = self._main()
        self._read_turn(turn)

    @property
    def is_reasoning(self) -> bool:
        """The model is in a region of reasoning."""
        return self._is_reasoning

    def feed(self, text: str) -> list[Piece]:
        """What this text adds to the message."""
        self._cursor.add(text)
        next(self._run, None)
        return self._taken()

    def finish(self, is_cut: bool = False) -> list[Piece]:
        """What was held back. The parser takes nothing after this.

        Of a text that is cut, by a limit or a stop string, what may be the beginning of markup is dropped: of a
        delimiter, or of a call whose name or arguments aren't there yet.
        """
        self._cursor.is_last = True
        if is_cut:
            with suppress(Cut, StopIteration):
                self._run.throw(Cut)
        else:
            for _ in self._run:
                pass
        self._content.flush()
        self._reasoning.flush()
        return self._taken()

    def _read_turn(self, turn: str) -> None:
        """Of what is in the prompt only a call that goes on is given, from its beginning."""
        self._cursor.shown_from = len(turn)
        pieces = self.feed(turn)
        self._first_call = self._calls.unfinished
        self._pieces += [piece for piece in pieces if piece.call >= self._first_call]

    def _taken(self) -> list[Piece]:
        pieces = joined(self._pieces)
        self._pieces.clear()
        if self._first_call:
            return [piece._replace(call=max(piece.call - self._first_call, -1)) for piece in pieces]
        return pieces

    def _main(self) -> Waits:
        delimiters = [delimiter for delimiter, _ in self._watched]
        send = _nowhere if self._discards else self._content.add
        while (found := (yield from self._until(delimiters, send))) is not None:
            place, match = found
            region = self._watched[place][1]
            if region is not None:
                yield from self._region(region, match)
            elif match.start() == match.end():
                send((yield from self._one()))

    def _one(self) -> Generator[None, None, str]:
        yield from self._cursor.peek()
        return self._cursor.take(min(self._cursor.pos + 1, len(self._cursor.text)))

    def _until(self, delimiters: Sequence[Delimiter], send: Callable[[str], None]) -> Generator[None, None, Any]:
        """Sends text on until a delimiter, which is passed: its place and match, or None at the end of the text."""
        cursor = self._cursor
        while True:
            found, end = cursor.scan(delimiters)
            text = cursor.shown(cursor.pos, end)
            cursor.pos = end
            if text:
                send(text)
            if found is not None:
                cursor.pos = found[1].end()
                return found
            if cursor.is_last:
                return None
            yield

    def _region(self, region: Region, match: Any) -> Waits:
        if region.role == "calls":
            yield from self._calls.read(region, match)
        elif region.role == "other" or (region.role == "reasoning" and not self._separates):
            yield from self._verbatim(region, match)
        else:
            yield from self._text(region, match)

    def _begin(self, region: Region, match: Any) -> None:
        self._is_reasoning = region.role == "reasoning"
        if self._is_reasoning:
            self.reasoning.append((max(match.start() - self._cursor.shown_from, 0), None))

    def _end(self) -> None:
        if self._is_reasoning:
            self.reasoning[-1] = self.reasoning[-1][0], max(self._cursor.pos - self._cursor.shown_from, 0)
        self._is_reasoning = False

    def _text(self, region: Region, match: Any) -> Waits:
        self._begin(region, match)
        strand = self._reasoning if self._is_reasoning else self._content
        self._content.meet_markup()
        strand.meet_markup()
        if (yield from self._until(_closings(region), strand.add)) is not None:
            strand.meet_markup()
        self._end()

    def _verbatim(self, region: Region, match: Any) -> Waits:
        self._begin(region, match)
        self._content.add(self._cursor.shown(*match.span()))
        found = yield from self._until(_closings(region), self._content.add)
        if found is not None:
            self._content.add(found[1].group())
        self._end()


def _nowhere(text: str) -> None:
    pass


def _closings(region: Region) -> list[Delimiter]:
    return [region.closing] if region.closing else []


def _watched(format: Format) -> list[tuple[Delimiter, Region | None]]:
    """Delimiters outside regions: those that open one, and those that end content and are dropped."""
    opening = [(region.opening, region) for region in format.regions if region.opening]
    ending = [(region.closing, None) for region in format.regions if not region.opening and region.closing]
    return [*opening, *ending]
