"""Constraints with texts that they describe and texts that they don't, and ways to drive a matcher."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgcore.api import Constraint, Grammar, Matcher
from sgcore.errors import ConstraintError
from sgcore.testing.checkpoints import train_tokenizer

SPECIAL = ("<end>", "<tool>", "[call]", "[/call]")
END, TOKENS, VOCABULARY = 0, 290, 301
"""The last word of a mask has bits that stand for no token, and some tokens of the model stand for no text."""
OBJECT = {
    "type": "object",
    "properties": {"name of it": {"type": "boolean"}, "values": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name of it", "values"],
    "additionalProperties": False,
}
TAG = {"structures": [{"begin": "<f=x>", "schema": {"const": 1}, "end": "</f>"}], "triggers": ["<f="]}


@dataclass(frozen=True)
class Language:
    """A constraint, and texts that it describes or doesn't. JSON is written with and without spaces: one is enough."""

    kind: str
    text: Any
    """A str, or what is sent as JSON."""
    good: tuple[str, ...]
    bad: tuple[str, ...]

    @property
    def constraint(self) -> Constraint:
        return Constraint(self.kind, self.text if isinstance(self.text, str) else json.dumps(self.text))

    def spellings(self, text: str) -> set[str]:
        """The text, and for JSON the usual ways to write the same."""
        if self.kind != "json_schema":
            return {text}
        value = json.loads(text)
        return {text, json.dumps(value), json.dumps(value, separators=(",", ":"))}


LANGUAGES = (
    Language("json_schema", {"type": "integer"}, ("1", "-20"), ("1.5", "x", "")),
    Language("json_schema", {"enum": ["yes", 2, True]}, ('"yes"', "2", "true"), ('"no"', "3", "yes")),
    Language("json_schema", OBJECT, ('{"name of it": true, "values": [1, 2]}',), ("{}", '{"name of it": 1}', "[1]")),
    Language("regex", "a{2,3}", ("aa", "aaa"), ("a", "aaaa", "aab")),
    Language("regex", "(yes|no), [0-9]+ [a-c]*é", ("yes, 12 é", "no, 0 abcé"), ("yes,1 é", "no, 1 de")),
    Language("choice", ["yes", "yes and no", 'a "b" c\n'], ("yes", "yes and no", 'a "b" c\n'), ("ye", "no", "yes and")),
    Language("ebnf", 'root ::= "a" [0-9]+ | "(" root ")"', ("a1", "((a123))"), ("a", "(a1", "b1")),
    Language("structural_tag", TAG, ("free", "<f=x>1</f>", "say <f=x>1</f> so"), ("<f=y>", "<f=x>2</f>", "<f=x>1")),
)
LONGEST = 60
"""Tokens of a walk."""
BAD = (
    Constraint("json_schema", '{"type": "strin"}'),
    Constraint("regex", "a("),
    Constraint("ebnf", "root ::= unknown"),
    Constraint("structural_tag", "{}"),
    Constraint("sonnet", "14 lines"),
)


def make_tokenizer() -> Any:
    """A `tokenizers.Tokenizer` of TOKENS byte-level pairs, the first of which are SPECIAL."""
    trained = train_tokenizer(['{"name of it": 1, "values": [true, false]} yes and no'] * 9, TOKENS, SPECIAL)
    assert trained.get_vocab_size() == TOKENS
    return trained


def at(grammar: Grammar, tokens: Sequence[int]) -> Matcher:
    """A matcher behind these tokens."""
    matcher = grammar.start()
    matcher.accept(list(tokens))
    return matcher


def bits(mask: Any) -> Any:
    """The places of the bits that are set."""
    return np.unpackbits(mask.view(np.uint8), bitorder="little").nonzero()[0]


def allowed(matcher: Matcher) -> list[int]:
    """The tokens that may come next."""
    mask = np.zeros(-(-VOCABULARY // 32), np.int32)
    matcher.fill(mask)
    return [int(token) for token in bits(mask)]


def accepts(matcher: Matcher, token: int) -> bool:
    try:
        matcher.accept([token])
    except ConstraintError:
        return False
    return True


def takes(grammar: Grammar, tokenizer: Any, text: str) -> bool:
    """Whether an output may be exactly this."""
    try:
        matcher = at(grammar, tokenizer.encode(text).ids)
        return matcher.is_complete or END in allowed(matcher)
    except ConstraintError:
        return False


def walk(grammar: Grammar, chance: random.Random) -> tuple[list[int], bool]:
    """Random tokens that the masks allow, and whether the output has ended."""
    matcher = grammar.start()
    ids: list[int] = []
    while len(ids) < LONGEST and not matcher.is_complete:
        token = chance.choice(allowed(matcher))
        if token == END:
            return ids, True
        matcher.accept([token])
        ids.append(token)
    return ids, matcher.is_complete
