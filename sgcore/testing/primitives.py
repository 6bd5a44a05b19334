"""What every word of the language must do, and a way to drive one without a server.

A plugin's test file inherits the suite:

    class TestMyWord(PrimitiveSuite):
        word = "my_word"
        examples = [lambda word: word("name", option=1)]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from sgcore import lang
from sgcore.lang import Assign, Capture, Generate, Generated, Position, Primitive, Score
from sgcore.plugins.drivers import find, load
from sgcore.plugins.installed import Installed

Answer = Callable[[Any], Any]
KNOWN = (
    lang.Append,
    lang.Generate,
    lang.Score,
    lang.Media,
    lang.Capture,
    lang.Assign,
    lang.BeginTurn,
    lang.EndTurn,
    lang.Mark,
    lang.TextSince,
    lang.Rewind,
)
ENOUGH = 10_000
"""Requests after which a word counts as endless."""


class Drive:
    """Runs a word and keeps what it asked for in `requests`.

    `answer` gives the result of each request; by default a generation says "text", a choice is the first.
    """

    def __init__(
        self,
        word: Primitive,
        answer: Answer | None = None,
        variables: Mapping[str | None, Any] | None = None,
        role: str | None = None,
    ) -> None:
        self.variables = dict(variables or {})
        self.role = role
        self.requests: list[Any] = []
        self._answer = answer or usual_answer
        steps = word.run(self)
        result: Any = None
        while len(self.requests) < ENOUGH:
            try:
                request = steps.send(result)
            except StopIteration:
                return
            self.requests.append(request)
            result = self._answer(request)
        raise AssertionError(f"the word made {ENOUGH} requests and did not end")


def usual_answer(request: Any) -> Any:
    """A result of the right type."""
    if isinstance(request, Generate):
        return Generated("text", ("text",) * request.params.get("n", 1), {})
    if isinstance(request, Score):
        return Generated(request.choices[0], request.choices[:1], {})
    return {lang.Mark: Position(0), lang.TextSince: "text"}.get(type(request))


def _plain(value: Any) -> Any:
    """A word as what it is made of, to be compared."""
    if isinstance(value, Primitive):
        return type(value), {name: _plain(part) for name, part in vars(value).items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


class PrimitiveSuite:
    """Inherit it, name the installed word, and give functions that make examples of it."""

    word: ClassVar[str]
    examples: ClassVar[Sequence[Callable[[Any], Primitive]]]

    def _class(self) -> Any:
        return load(find("primitive", self.word, Installed.read()))

    def _made(self) -> list[Primitive]:
        return [make(self._class()) for make in self.examples]

    def test_is_installed_as_a_primitive(self) -> None:
        assert issubclass(self._class(), Primitive) and self.examples

    def test_asks_only_for_what_the_language_has(self) -> None:
        for word in self._made():
            asked = Drive(word).requests
            assert all(isinstance(request, KNOWN) for request in asked), asked

    def test_names_what_it_sets(self) -> None:
        for word in self._made():
            set_by_it = {r.name for r in Drive(word).requests if isinstance(r, Capture | Assign)}
            assert set_by_it <= set(word.names())

    def test_runs_twice_alike_and_is_not_changed(self) -> None:
        for word in self._made():
            before = copy.deepcopy(_plain(word))
            first, second = Drive(word).requests, Drive(word).requests
            assert first == second
            assert _plain(word) == before

    def test_turns_are_balanced(self) -> None:
        for word in self._made():
            depth = 0
            for request in Drive(word).requests:
                depth += isinstance(request, lang.BeginTurn) - isinstance(request, lang.EndTurn)
                assert depth in (0, 1)
            assert depth == 0

    def test_can_be_added_to_text(self) -> None:
        for word in self._made():
            joined = "before " + word + " behind"
            asked = Drive(joined).requests
            assert asked[0] == lang.Append("before ") and asked[-1] == lang.Append(" behind")
            assert joined.names() == list(word.names())
