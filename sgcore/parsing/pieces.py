"""What a parser gives: pieces of the message, and the two strands of text that lose white space beside markup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Kind = Literal["content", "reasoning", "name", "arguments"]


class Piece(NamedTuple):
    """More of the message. A call's name is one piece and comes before its arguments, which are JSON text."""

    kind: Kind
    text: str
    call: int = -1
    """Which call, from 0."""


class Strand:
    """Content or reasoning. White space between text and markup belongs to the markup."""

    def __init__(self, kind: Kind, pieces: list[Piece]) -> None:
        self._kind: Kind = kind
        self._pieces = pieces
        self._pending = ""
        self._trims = False

    def add(self, text: str) -> None:
        """More text; white space at its end waits for what follows."""
        if self._trims:
            text = text.lstrip()
            self._trims = not text
        text = self._pending + text
        body = text.rstrip()
        self._pending = text[len(body) :]
        if body:
            self._pieces.append(Piece(self._kind, body))

    def meet_markup(self) -> None:
        """Markup stands here."""
        self._pending, self._trims = "", True

    def flush(self) -> None:
        """Nothing follows."""
        if self._pending:
            self._pieces.append(Piece(self._kind, self._pending))
        self._pending = ""


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of one kind and call as one piece; names stay apart."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and last.kind == piece.kind != "name" and last.call == piece.call:
            merged[-1] = Piece(piece.kind, last.text + piece.text, piece.call)
        else:
            merged.append(piece)
    return merged
