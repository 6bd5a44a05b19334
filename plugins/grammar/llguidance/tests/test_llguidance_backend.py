"""What the backend makes of constraints, without an engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from sgcore.api import Constraint, Matcher
from sgcore.errors import ConstraintError
from sgcore.testing.checkpoints import train_tokenizer
from sgcore_llguidance.backend import LLGuidanceBackend

SPECIAL = ["<end>", "<tool>"]
VOCABULARY, END = 400, 0


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(['{"name of it": 1, "values": [true, false]} yes and no'] * 9, 380, SPECIAL)


@pytest.fixture(scope="module")
def backend(tokenizer: Tokenizer) -> Iterator[LLGuidanceBackend]:
    yield LLGuidanceBackend(tokenizer.to_str(), VOCABULARY, [END])


def start(backend: LLGuidanceBackend, kind: str, text: Any) -> Matcher:
    plain = text if isinstance(text, str) else json.dumps(text)
    return backend.compile(Constraint(kind, plain)).start()


def allowed(matcher: Matcher) -> list[int]:
    mask = np.zeros(-(-VOCABULARY // 32), np.int32)
    matcher.fill(mask)
    return np.unpackbits(mask.view(np.uint8), bitorder="little").nonzero()[0].tolist()


def takes(backend: LLGuidanceBackend, tokenizer: Tokenizer, kind: str, text: Any, said: str) -> bool:
    """Whether an output may be exactly this."""
    matcher = start(backend, kind, text)
    try:
        matcher.accept(tokenizer.encode(said).ids)
        return matcher.is_complete or END in allowed(matcher)
    except ConstraintError:
        return False


CASES: list[tuple[str, Any, list[str], list[str]]] = [
    ("json_schema", {"type": "integer"}, ["1", "-20"], ["1.5", "x", ""]),
    ("json_schema", {"type": "array", "items": {"type": "integer"}}, ["[1, 2]", "[]"], ["[1,2]", "[ ]", "[1, 2"]),
    ("regex", "a{2,3}", ["aa", "aaa"], ["a", "aaaa", "aab"]),
    ("choice", ["yes", "yes and no", 'a "b" c\n'], ["yes", "yes and no", 'a "b" c\n'], ["ye", "no"]),
    ("ebnf", 'root ::= "a" [0-9]+', ["a1", "a123"], ["a", "b1"]),
    ("ebnf", 'start: "a" N\nN: /[0-9]+/', ["a1", "a123"], ["a", "b1"]),
]


@pytest.mark.parametrize(("kind", "text", "good", "bad"), CASES, ids=str)
def test_what_is_taken(
    backend: LLGuidanceBackend, tokenizer: Tokenizer, kind: str, text: Any, good: list[str], bad: list[str]
) -> None:
    for said in good:
        assert takes(backend, tokenizer, kind, text, said), said
    for said in bad:
        assert not takes(backend, tokenizer, kind, text, said), said


@pytest.mark.parametrize("trigger", ["<tool>", "<f="])
def test_a_tag_begins_with_a_special_token_or_with_text(
    backend: LLGuidanceBackend, tokenizer: Tokenizer, trigger: str
) -> None:
    tag = {
        "structures": [{"begin": f"{trigger}x:", "schema": {"const": 1}, "end": "</f>"}],
        "triggers": [trigger],
    }
    for said in ("free", f"free {trigger}x:1</f> and free", f"{trigger}x:1</f>{trigger}x:1</f>"):
        assert takes(backend, tokenizer, "structural_tag", tag, said), said
    for said in (f"free {trigger}y", f"free {trigger}x:2</f>"):
        assert not takes(backend, tokenizer, "structural_tag", tag, said), said


def test_forced_tokens_are_the_tokenizers_own_and_alone_in_the_mask(
    backend: LLGuidanceBackend, tokenizer: Tokenizer
) -> None:
    schema = {"type": "object", "properties": {"name of it": {"type": "boolean"}}, "required": ["name of it"]}
    matcher = start(backend, "json_schema", schema)
    forced = list(matcher.forced())
    whole = tokenizer.encode('{"name of it": true').ids
    assert forced == whole[: len(forced)] and len(forced) > 2
    for token in forced:
        assert allowed(matcher) == [token]
        matcher.accept([token])
    assert len(allowed(matcher)) > 1


def test_an_output_ends_where_nothing_may_follow(backend: LLGuidanceBackend, tokenizer: Tokenizer) -> None:
    matcher = start(backend, "regex", "ab|abc")
    matcher.accept(tokenizer.encode("ab").ids)
    assert not matcher.is_complete and END in allowed(matcher)
    matcher.accept(tokenizer.encode("c").ids)
    assert matcher.is_complete


def test_matchers_of_one_grammar_are_apart(backend: LLGuidanceBackend, tokenizer: Tokenizer) -> None:
    grammar = backend.compile(Constraint("regex", "aaa|bbb"))
    first, second = grammar.start(), grammar.start()
    first.accept(tokenizer.encode("a").ids)
    second.accept(tokenizer.encode("b").ids)
    assert not set(allowed(first)) & set(allowed(second))


BAD: list[tuple[str, Any, str]] = [
    ("json_schema", {"type": "array", "uniqueItems": True}, "uniqueItems"),
    ("json_schema", {"not": {"type": "null"}}, "not"),
    ("json_schema", {"type": "string", "format": "colour"}, "colour"),
    ("json_schema", {"type": "strin"}, "strin"),
    ("regex", "a(", "unclosed group"),
    ("regex", r"(a)\1", "backreferences"),
    ("ebnf", "root ::= unknown", "unknown"),
    ("ebnf", "root ::= " + '"a" ' * 5000, "at most 8,192"),
    ("structural_tag", {"structures": [], "triggers": []}, "structures"),
    ("structural_tag", {"format": {}}, "structures"),
    ("structural_tag", {"structures": [{"begin": "<a>", "end": ""}], "triggers": ["<b"]}, "no trigger begins '<a>'"),
    ("sonnet", "14 lines", "sonnet"),
]


@pytest.mark.parametrize(("kind", "text", "message"), BAD, ids=str)
def test_errors_name_what_is_wrong(backend: LLGuidanceBackend, kind: str, text: Any, message: str) -> None:
    with pytest.raises(ConstraintError, match=message) as caught:
        start(backend, kind, text)
    assert len(str(caught.value)) < 1200


def test_a_token_that_is_not_allowed_is_an_error(backend: LLGuidanceBackend, tokenizer: Tokenizer) -> None:
    matcher = start(backend, "regex", "aaa")
    with pytest.raises(ConstraintError):
        matcher.accept(tokenizer.encode("b").ids)
