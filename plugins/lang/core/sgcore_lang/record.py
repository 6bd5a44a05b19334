"""What a state has said: text, turns and what isn't known yet, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgcore.lang import Generated, Media
from sgcore_lang.backend import Message, Piece
from sgcore_lang.errors import Where


@dataclass(eq=False, slots=True)
class Operation:
    """A queued statement: a word to run, or an action between states. Settled once all its variables are known."""

    work: Any
    names: Sequence[str | None]
    where: Where | None
    waits_for: int = 1
    """Results that are still to come, and one for the statement itself."""


@dataclass(eq=False, slots=True)
class Item:
    """One part. `piece` is what a backend is to be told; `text` grows while a stream brings it."""

    operation: Operation
    """The statement that it comes from."""
    piece: Piece
    text: str = ""
    is_known: bool = True
    begins: str | None = None
    """The role whose turn begins with it."""
    ends: str | None = None
    is_kept: bool = False
    """Whether its result becomes the variable `name`."""
    name: str | None = None
    result: Generated | None = None
    meta: Mapping[str, Any] | None = None
    """What the backend tells of a text that still grows."""


@dataclass
class Record:
    """The items, and how many of them the backend has: their tokens are `ids`, where it tells them."""

    items: list[Item] = field(default_factory=list)
    sent: int = 0
    ids: Sequence[int] | None = None
    role: str | None = None
    is_rendered_whole: bool = False
    """Whether the turns have no text of their own: only the server can render them."""
    checkpoints: list[tuple[int, int]] = field(default_factory=list)
    """(items, tokens) at the ends of earlier requests."""

    def copy(self) -> Record:
        """The same so far; what is added to one is not in the other. All items must be known."""
        return Record(list(self.items), self.sent, self.ids, self.role, self.is_rendered_whole, list(self.checkpoints))

    @property
    def pending(self) -> list[Item]:
        """What the backend doesn't have yet."""
        return self.items[self.sent :]

    def text(self, start: int = 0, end: int | None = None) -> str:
        """The text of some items."""
        return "".join(item.text for item in self.items[start:end])

    def text_so_far(self) -> str:
        """The text up to the first item that is still to come, and what has come of it."""
        parts = []
        for item in self.items:
            parts.append(item.text)
            if not item.is_known:
                break
        return "".join(parts)

    def acknowledge(self, count: int, ids: Sequence[int] | None) -> None:
        """The backend has `count` more items, and all tokens are `ids`."""
        self.sent += count
        if ids is None or (self.ids is not None and list(ids[: len(self.ids)]) != list(self.ids)):
            self.checkpoints.clear()  # a choice has replaced the last token, or nobody counts tokens
        self.ids = ids
        if ids is not None:
            self.checkpoints.append((self.sent, len(ids)))

    def rewind(self, place: int) -> None:
        """Take back the items from `place` on; tokens go back to the last request that ended before it."""
        del self.items[place:]
        if self.sent <= place:
            return
        while self.checkpoints and self.checkpoints[-1][0] > place:
            self.checkpoints.pop()
        self.sent, tokens = self.checkpoints[-1] if self.checkpoints else (0, 0)
        self.ids = self.ids[:tokens] if self.ids is not None and tokens else None

    def messages(self, end: int | None = None) -> list[Message]:
        """The turns up to an item; the last is incomplete if a role's turn is open there."""
        turns: list[tuple[str, list[Item]]] = []
        is_open = False
        for item in self.items[:end]:
            if item.begins is not None:
                turns.append((item.begins, []))
                is_open = True
            elif item.ends is not None:
                is_open = False
            elif is_open:
                turns[-1][1].append(item)
        return [{"role": role, "content": _content(items)} for role, items in turns]

    def role_at(self, end: int) -> str | None:
        """Whose turn is open behind the first `end` items."""
        for item in reversed(self.items[:end]):
            if item.begins is not None or item.ends is not None:
                return item.begins
        return None


def _content(items: list[Item]) -> Any:
    """A message's content: a text, or a list of parts where there are pictures in it."""
    if not any(isinstance(item.piece, Media) for item in items):
        return "".join(item.text for item in items).lstrip()
    parts: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item.piece, Media):
            kind = f"{item.piece.kind}_url"
            parts.append({"type": kind, kind: {"url": item.piece.url, **item.piece.options}})
        elif parts and parts[-1]["type"] == "text":
            parts[-1]["text"] += item.text
        elif item.text:
            parts.append({"type": "text", "text": item.text})
    return parts
