"""What a program needs of whatever computes it (entry point group `sgcore.lang_backends`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from sgcore.lang import Generate, Generated, Media, Score
from sgcore_lang.errors import NotSupported

Piece: TypeAlias = "str | Generate | Score | Media"
Message: TypeAlias = "dict[str, Any]"


class Progress(Protocol):
    """Takes a piece's place, all its text so far, and what the backend tells of it by then (`meta_info`)."""

    def __call__(self, place: int, text: str, meta: Mapping[str, Any] | None = None, /) -> None: ...


@dataclass(frozen=True)
class Turns:
    """A chat template, turn by turn; `is_concatenative` false: only the server can render it, as a whole."""

    is_concatenative: bool = True
    reason: str = ""
    start: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    stop_token_ids: Sequence[int] = ()


PLAIN_TURNS = Turns(
    roles={"system": ("SYSTEM:", "\n"), "user": ("USER:", "\n"), "assistant": ("ASSISTANT:", "\n")},
)
"""What stands around roles where there is no template."""


@dataclass(frozen=True)
class Call:
    """One request: pieces that follow a text."""

    pieces: Sequence[Piece]
    text: str = ""
    """All the text before the pieces."""
    ids: Sequence[int] | None = None
    """The same as tokens, where the backend has told them."""
    messages: Sequence[Message] = ()
    """The same as a conversation; the last message is the open turn, if `role` is not None."""
    role: str | None = None
    group: tuple[str, int] | None = None
    """(id, size): so many requests will begin with this one's tokens; keep them cached until `release(id)`."""


@dataclass(frozen=True)
class Reply:
    """What came of a call: a result for each piece that asked the model, and all tokens up to the end of the pieces.

    `error` is what ended it before the next piece's result.
    """

    results: Sequence[Generated]
    ids: Sequence[int] | None = None
    error: Exception | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    """`prompt_tokens`, `cached_tokens` and `completion_tokens` of the whole call, as far as they are known."""


class Backend:
    """Computes calls. Every method runs on the language's event loop; cancelling one ends its request."""

    takes_programs = False
    """Whether a call may have several pieces; otherwise each ends with its first that asks the model."""

    async def turns(self) -> Turns:
        """What stands around each role's words."""
        return PLAIN_TURNS

    async def run(self, call: Call, progress: Progress | None = None) -> Reply:
        """Compute a call. Raises BackendError, NotSupported for what this backend can't do."""
        raise NotSupported(f"{type(self).__name__} can't generate")

    async def render(self, messages: Sequence[Message], continues: bool) -> Sequence[int]:
        """A conversation as tokens, by the server; `continues`: the last message goes on."""
        raise NotSupported(f"{type(self).__name__} can't render a conversation")

    async def release(self, group: str) -> None:
        """The group's requests have ended."""

    async def flush_cache(self) -> None:
        """Forget all cached prefixes."""
        raise NotSupported(f"{type(self).__name__} has no cache to flush")

    async def server_info(self) -> Mapping[str, Any]:
        """What the server tells of itself."""
        raise NotSupported(f"{type(self).__name__} has no server information")

    async def close(self) -> None:
        """Give connections back."""


def asks_model(piece: Piece) -> bool:
    """Whether a piece has a result."""
    return isinstance(piece, Generate | Score)


def refuse_media(call: Call, who: str) -> None:
    """Raise NotSupported if a piece is no text."""
    for piece in call.pieces:
        if isinstance(piece, Media):
            raise NotSupported(f"{piece.kind}: {who}")
