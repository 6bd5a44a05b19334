"""What a program is made of on the wire: text, generations and choices that follow one another."""

from __future__ import annotations

from typing import Any

import msgspec

from sgcore.engine.limits import check_name, check_number, check_text
from sgcore.errors import RequestError

MAX_PIECES = 1024
MAX_CHOICES = 1024
MAX_GROUP_CHARS = 128
MAX_SCORED_TOKENS = 1 << 22
"""Of all choices of a piece together, each with the text before it."""


class GenPiece(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Continue the text so far."""

    name: str | None = None
    sampling_params: dict[str, Any] = {}
    return_logprob: bool = False
    logprob_start_len: int = -1
    top_logprobs_num: int = 0
    token_ids_logprob: list[int] = []
    return_text_in_logprobs: bool = False


class SelectPiece(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Continue with the most likely of some texts."""

    choices: list[str]
    name: str | None = None
    method: str = "token_length_normalized"


class MediaPiece(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Something that isn't text: a `data:` URL, or an address."""

    kind: str
    url: str
    options: dict[str, Any] = {}


class Piece(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One part of a program; exactly one field is set."""

    text: str | None = None
    gen: GenPiece | None = None
    select: SelectPiece | None = None
    media: MediaPiece | None = None


class Group(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Requests to come that begin with this one's tokens: its prefix is pinned until the group is released."""

    id: str
    size: int = 1
    """How many requests will share the prefix."""


def pieces_from(values: list[Any]) -> list[Piece]:
    """Pieces from a client's dictionaries, checked. Raises RequestError."""
    try:
        return check_pieces(msgspec.convert(values, list[Piece]))
    except msgspec.ValidationError as error:
        raise RequestError(f"pieces: {error}", param="pieces") from error


def check_pieces(pieces: list[Piece]) -> list[Piece]:
    """The same pieces. Raises RequestError for one that says nothing or too much."""
    if len(pieces) > MAX_PIECES:
        raise RequestError(f"a program has at most {MAX_PIECES} pieces, got {len(pieces)}", param="pieces")
    for place, piece in enumerate(pieces):
        if sum(part is not None for part in (piece.text, piece.gen, piece.select, piece.media)) != 1:
            raise RequestError(f"pieces[{place}] must have exactly one of text, gen, select and media", param="pieces")
        if piece.media is not None:
            message = f"the model has no vision: it takes text only, and pieces[{place}] is {piece.media.kind[:32]!r}"
            raise RequestError(message, param="pieces", code="unsupported_content")
        if piece.text is not None:
            check_text("pieces", piece.text)
        if piece.select is not None:
            _check_choices(place, piece.select)
    return pieces


def _check_choices(place: int, piece: SelectPiece) -> None:
    if not 0 < len(piece.choices) <= MAX_CHOICES or not all(piece.choices):
        message = f"pieces[{place}].select.choices must be 1 to {MAX_CHOICES} texts that aren't empty"
        raise RequestError(message, param="pieces")
    for choice in piece.choices:
        check_text("pieces", choice)


def check_group(group: Group | None) -> Group | None:
    """The same group. Raises RequestError for an id or a size out of bounds."""
    if group is not None:
        check_name("group.id", group.id, 1, MAX_GROUP_CHARS)
        check_number("group.size", group.size, 1)
    return group
