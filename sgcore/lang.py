"""What a word of the language says to whatever runs it: requests out, results in. Torch-free, and without a server.

A `Primitive` is a word of a program, as in `s += word(...)`. Its `run` yields requests and is sent their results, so a
test can drive it with a function. Installed words are found by their entry point name (group `sgcore.primitives`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias


@dataclass(frozen=True)
class Append:
    """Add text. Result: None."""

    text: str


@dataclass(frozen=True)
class Generate:
    """Let the model continue. Result: `Generated`.

    `params` are sampling parameters in the server's words; those left out are the run's. `options` are what a
    generation is told beside them: `return_logprob`, `top_logprobs_num` and so on.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """Continue with the most likely of some texts. Result: `Generated`, whose `text` is the choice."""

    choices: tuple[str, ...]
    method: str = "token_length_normalized"


@dataclass(frozen=True)
class Media:
    """Show the model something that isn't text. Result: None."""

    kind: str
    """What a chat message calls it: a content part is `{"type": "<kind>_url", ...}`."""
    url: str
    """A `data:` URL, or an address that the server is to fetch."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Capture:
    """Do `request` and keep its text under a name (or None) when it comes. Result: None, at once.

    So several of them make one round trip. A word that must see the text yields the request itself.
    """

    name: str | None
    request: Generate | Score


@dataclass(frozen=True)
class Assign:
    """Give a variable a value. Result: None."""

    name: str
    value: Any
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BeginTurn:
    """A turn of a role begins; turns don't nest. Result: None."""

    role: str


@dataclass(frozen=True)
class EndTurn:
    """The turn ends. Result: None."""

    role: str


@dataclass(frozen=True)
class Mark:
    """Where are we? Result: `Position`."""


@dataclass(frozen=True)
class TextSince:
    """What has been added since a position? Result: str."""

    position: Position


@dataclass(frozen=True)
class Rewind:
    """Take back what has been added since a position. Result: None."""

    position: Position


@dataclass(frozen=True)
class Position:
    """A place in a state's text."""

    place: int


@dataclass(frozen=True)
class Generated:
    """What a model has said: the first sample, all of them, and information about each as the server gives it."""

    text: str
    texts: tuple[str, ...]
    meta: Any


Request: TypeAlias = (
    "Append | Generate | Score | Media | Capture | Assign | BeginTurn | EndTurn | Mark | TextSince | Rewind"
)
Result: TypeAlias = "Generated | Position | str | None"
Steps: TypeAlias = "Generator[Request, Any, None]"


class State(Protocol):
    """What a word may read of the program that it stands in."""

    @property
    def variables(self) -> Mapping[str | None, Any]:
        """Values known by now."""

    @property
    def role(self) -> str | None:
        """Whose turn it is."""


class Primitive(ABC):
    """A word of the language (group `sgcore.primitives`; the entry point's name is the word).

    Made by the program with whatever arguments it likes, and run once or many times: `run` must not change it.
    """

    @abstractmethod
    def run(self, state: State) -> Steps:
        """Yield requests of `sgcore.lang` and be sent their results. What it raises ends the program."""

    def names(self) -> Sequence[str | None]:
        """The variables that it sets, as far as they are known before it runs: who reads one waits for this word."""
        return ()

    def __add__(self, other: Primitive | str) -> Primitive:
        return Together((self, word_of(other)))

    def __radd__(self, other: str) -> Primitive:
        return Together((word_of(other), self))


class Text(Primitive):
    """Constant text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, state: State) -> Steps:
        yield Append(self.text)


class Together(Primitive):
    """Several words behind one another."""

    def __init__(self, words: Sequence[Primitive]) -> None:
        self.words = tuple(words)

    def run(self, state: State) -> Steps:
        for word in self.words:
            yield from word.run(state)

    def names(self) -> Sequence[str | None]:
        return [name for word in self.words for name in word.names()]


def word_of(value: Primitive | str) -> Primitive:
    """A string as a word; a word as it is. Raises TypeError for anything else."""
    if isinstance(value, Primitive):
        return value
    if isinstance(value, str):
        return Text(value)
    raise TypeError(f"expected text or a word such as gen(...), got {type(value).__name__}")
