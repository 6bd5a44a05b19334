"""What a format of tool calls or reasoning must do: subclass `FormatSuite` in a test file."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgcore.api import ResponseFormat
from sgcore.parsing.formats import Format
from sgcore.parsing.parser import Parser
from sgcore.parsing.pieces import Piece

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
"""The tools that the examples call."""
NOISE = (*"{}[]<>'\"\\:,;|/ \n", "true", "1", "é", "世", '{"name": "now"', '"arguments": ', "}}")
SEED_MAX = 2**32 - 1


@dataclass
class Read:
    """A message."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Names and arguments."""

    @property
    def everything(self) -> str:
        """All text that the message has."""
        return "\0".join([self.content, self.reasoning, *(part for call in self.calls for part in call)])


@dataclass(frozen=True)
class Example:
    """What a model wrote, behind `prompt`, and what it means. Arguments are compared as objects."""

    text: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    prompt: str = ""


FORCED = Example(
    '[{"name": "get_weather", "arguments": {"city": "a \\"b\\" [{é"}}, {"name": "now", "arguments": {}}]',
    calls=(("get_weather", {"city": 'a "b" [{é'}), ("now", {})),
)
"""Calls that a constraint made, whatever the model's own format is."""


def read(format: Format, chunks: Iterable[str], turn: str = "", is_cut: bool = False) -> Read:
    """The message in a text that arrives in chunks; `is_cut`: a limit ended it."""
    parser = Parser(format, turn, TOOLS)
    message = Read()
    for chunk in chunks:
        _add(message, parser.feed(chunk))
    _add(message, parser.finish(is_cut))
    return message


def _add(message: Read, pieces: Iterable[Piece]) -> None:
    for piece in pieces:
        if piece.kind == "content":
            message.content += piece.text
        elif piece.kind == "reasoning":
            message.reasoning += piece.text
        elif piece.kind == "name":
            assert piece.call == len(message.calls), "calls are numbered from 0, in order"
            message.calls.append((piece.text, ""))
        else:
            name, arguments = message.calls[piece.call]
            message.calls[piece.call] = name, arguments + piece.text


def split(text: str, seed: int) -> list[str]:
    """The text in random pieces, mostly short ones; some are empty."""
    chance = random.Random(seed)
    longest = chance.choice((1, 2, 5, 20))
    chunks, start = [], 0
    while start < len(text):
        end = start + chance.randint(0, longest)
        chunks.append(text[start:end])
        start = end
    return chunks


def soup(texts: Sequence[str], seed: int) -> str:
    """Scraps of these texts, noise, and words that occur once (`w0w`, `w1w`, ...)."""
    chance = random.Random(seed)
    parts = []
    for place in range(chance.randint(1, 12)):
        text = chance.choice(texts)
        start = chance.choice((0, chance.randrange(len(text))))
        end = chance.choice((len(text), chance.randint(start, len(text))))
        parts.append(chance.choice((text[start:end], text[start:end], chance.choice(NOISE), f"w{place}w")))
    return "".join(parts)


class FormatSuite:
    """Set `format` and `examples`: well-formed answers, together with every kind of region that the format has."""

    format: ClassVar[ResponseFormat]
    examples: ClassVar[tuple[Example, ...]]

    def test_examples_mean_what_they_say(self) -> None:
        format = Format.of(self.format)
        for example in self.examples:
            message = read(format, [example.text], format.turn(example.prompt))
            calls = tuple((name, json.loads(arguments)) for name, arguments in message.calls)
            assert (message.content, message.reasoning, calls) == (example.content, example.reasoning, example.calls)

    def test_transformers_reads_the_same_calls(self) -> None:
        from transformers.utils.chat_parsing import parse_response

        for example in self.examples:
            found = parse_response(example.text, dict(self.format.template), prefix=example.prompt, tools=list(TOOLS))
            functions = [call["function"] for call in found.get("tool_calls", ())]
            assert example.calls == tuple((function["name"], function["arguments"]) for function in functions)

    def test_every_place_to_split_gives_the_same(self) -> None:
        format = Format.of(self.format)
        for example in self.examples:
            turn = format.turn(example.prompt)
            whole = read(format, [example.text], turn)
            assert read(format, example.text, turn) == whole
            for place in range(len(example.text)):
                assert read(format, [example.text[:place], example.text[place:]], turn) == whole

    def test_an_answer_that_is_cut_anywhere_shows_no_markup(self) -> None:
        format = Format.of(self.format)
        for example in self.examples:
            self._cut_everywhere(format, example)
        if format.has_calls:
            self._cut_everywhere(format.with_listed_calls(), FORCED)

    def _cut_everywhere(self, format: Format, example: Example) -> None:
        turn = format.turn(example.prompt)
        for end in range(len(example.text) + 1):
            message = read(format, [example.text[:end]], turn, is_cut=True)
            assert read(format, example.text[:end], turn, is_cut=True) == message
            assert example.content.startswith(message.content.rstrip())
            assert example.reasoning.startswith(message.reasoning.rstrip())
            assert [name for name, _ in message.calls] == [name for name, _ in example.calls][: len(message.calls)]
        assert len(message.calls) == len(example.calls), "what is complete is not cut"

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(text_seed=st.integers(0, SEED_MAX), split_seed=st.integers(0, SEED_MAX))
    def test_malformed_text_reads_the_same_in_any_pieces_and_loses_no_word(
        self, text_seed: int, split_seed: int
    ) -> None:
        format = Format.of(self.format)
        text = soup([example.text for example in self.examples], text_seed)
        whole = read(format, [text])
        assert read(format, split(text, split_seed)) == whole
        for place in range(12):
            assert whole.everything.count(f"w{place}w") >= text.count(f"w{place}w"), f"w{place}w is lost"
