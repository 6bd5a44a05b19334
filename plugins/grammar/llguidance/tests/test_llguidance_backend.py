"""llguidance by the suite of all backends, and its own words for what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLParserLimits

from sgcore.api import Constraint
from sgcore.errors import ConstraintError
from sgcore.testing.grammars import GrammarSuite
from sgcore.testing.languages import END, OBJECT, Language, allowed, at, takes
from sgcore_llguidance import backend
from sgcore_llguidance.backend import LLGuidanceBackend

SPECIAL_TAG = {"structures": [{"begin": "<tool>x:", "schema": {"const": 1}, "end": "</f>"}], "triggers": ["<tool>"]}
OTHER_TAG = {"structures": [{"begin": "[call]", "schema": {"const": 1}, "end": "[/call]"}], "triggers": ["[call]"]}
TWO_TAGS = ("free", "free <tool>x:1</f> and free", "<tool>x:1</f><tool>x:1</f>")
MANY_STATES = {"type": "array", "items": {"type": "string", "maxLength": 300, "pattern": r"^(?:\S+\s+){0,29}\S+$"}}
REGEX = {"type": "regex", "pattern": "[0-9]+/?"}
ANY_JSON = {"type": "json_schema", "json_schema": True}


def sequence(*elements: Any) -> dict[str, Any]:
    return {"type": "sequence", "elements": list(elements)}


def tag(begin: str, content: Any, end: str | list[str]) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def triggered(*tags: Any, **more: Any) -> dict[str, Any]:
    return {"type": "triggered_tags", "triggers": ["<"], "tags": list(tags), **more}


def text(value: str) -> dict[str, Any]:
    return {"type": "const_string", "value": value}


ONE = tag("<a>", {"type": "json_schema", "json_schema": {"const": 1}}, "</a>")
ANY_OF_TWO = tag("[call]", {"type": "any_text"}, ["[/call]", "!"])
FORMATS: list[tuple[Any, tuple[str, ...], tuple[str, ...]]] = [
    (text("a/b"), ("a/b",), ("a", "a/bc")),
    (REGEX, ("1", "12/"), ("", "1//")),
    ({"type": "any_text"}, ("any\ntext", ""), ()),
    ({"type": "any_text", "excludes": ["no"]}, ("any text",), ("so no",)),
    ({"type": "grammar", "grammar": 'root ::= "a" | "b" root'}, ("a", "bba"), ("b",)),
    (sequence(text("x"), REGEX, text("y")), ("x1y", "x1/y"), ("x1", "xy")),
    (sequence(text("x"), ONE, {"type": "any_text"}), ("x<a>1</a> and", "x<a>1</a>"), ("x<a>2</a>", "y<a>1</a>")),
    ({"type": "or", "elements": [text("x"), ONE]}, ("x", "<a>1</a>"), ("<a>2</a>", "")),
    (ONE, ("<a>1</a>",), ("<a>1", "<a>1</a> ")),
    (ANY_OF_TWO, ("[call]b[/call]", "[call]b!"), ("[call]b", "[call]b!c!")),
    (tag("<a>", {"type": "any_text"}, ["b>", "c>"]), ("<a>xb>", "<a>c>"), ("<a>x", "<a>b>c>")),
    (triggered(ONE), ("free", "a <a>1</a> b", "<a>1</a><a>1</a>"), ("<a>2</a>", "<b", "a <a>1")),
    (triggered(ONE, at_least_one=True), ("<a>1</a>", "<a>1</a> b <a>1</a>"), ("", "b <a>1</a>")),
    (triggered(ONE, stop_after_first=True), ("b", "b <a>1</a>"), ("<a>1</a> b",)),
    (triggered(ONE, at_least_one=True, stop_after_first=True), ("<a>1</a>",), ("", "<a>1</a><a>1</a>")),
    (triggered(ONE, excludes=["no"]), ("so <a>1</a>",), ("no <a>1</a>", "<a>1</a> no")),
    ({"type": "tags_with_separator", "tags": [ONE], "separator": ", "}, ("", "<a>1</a>, <a>1</a>"), ("<a>1</a>, ",)),
    ({"type": "tags_with_separator", "tags": [ONE], "separator": ",", "at_least_one": True, "stop_after_first": True},
     ("<a>1</a>",), ("", "<a>1</a>,<a>1</a>")),
    ({"type": "repeat", "min": 1, "max": 2, "content": ONE}, ("<a>1</a>", "<a>1</a>" * 2), ("", "<a>1</a>" * 3)),
    ({"type": "star", "content": text("ab")}, ("", "abab"), ("aba",)),
    ({"type": "plus", "content": ONE}, ("<a>1</a>" * 3,), ("",)),
    ({"type": "optional", "content": text("a")}, ("", "a"), ("aa",)),
    (sequence(text("<tool>"), ONE), ("<tool><a>1</a>",), ("<a>1</a>",)),
]  # fmt: skip
BAD: list[tuple[str, Any, str]] = [
    ("json_schema", {"type": "array", "uniqueItems": True}, "uniqueItems"),
    ("json_schema", {"not": {"type": "integer"}}, "not"),
    ("json_schema", {"type": "string", "not": {"pattern": "a"}}, "not"),
    ("json_schema", {"const": 2**53 + 1}, "9007199254740993 of const"),
    ("json_schema", {"enum": [1, -(2**63)]}, "9223372036854775808 of const or enum"),
    ("json_schema", {"type": ["integer", "null"], "minimum": 2**53 + 1}, "minimum 9007199254740993"),
    ("json_schema", {"type": "integer", "exclusiveMaximum": 2**60 + 256}, "maximum 1152921504606847231"),
    ("json_schema", {"type": "integer", "maximum": 10**40}, "maximum 1000"),
    ("json_schema", {"$ref": "#/$defs/a"}, r"'#/\$defs/a' leads nowhere"),
    ("json_schema", {"$ref": "https://example.com/a"}, "put it under"),
    ("json_schema", {"oneOf": 3}, "oneOf of a schema must be an array, got 3"),
    ("json_schema", False, "allows no value"),
    ("json_schema", {"type": "strin"}, "the json_schema can.t be followed: .*strin"),
    ("regex", "a(", "unclosed group"),
    ("regex", r"(a)\1", "backreferences"),
    ("ebnf", "root ::= unknown", "unknown"),
    ("ebnf", 'start: %json {"const": -9223372036854775808}', "9223372036854775808 of const or enum"),
    ("ebnf", 'start: %json // no schema\n{"const": 1}', "must be followed by a JSON schema"),
    ("ebnf", "root ::= " + '"a" ' * 5000, "at most 8,192"),
    ("structural_tag", {"structures": [], "triggers": []}, "structures"),
    ("structural_tag", {"format": {}}, "type.*triggered_tags"),
    ("structural_tag", {"format": {"type": "token", "token": 3}}, "token.*triggered_tags"),
    (
        "structural_tag",
        {"format": {"type": "json_schema", "json_schema": True, "style": "qwen_xml"}},
        "style 'qwen_xml'",
    ),
    ("structural_tag", {"format": sequence({"type": "any_text"}, ANY_JSON)}, "any_text with free text"),
    ("structural_tag", {"format": sequence(REGEX, ANY_JSON)}, "a regex directly before json_schema"),
    (
        "structural_tag",
        {"format": tag("<a>", triggered(tag("<b>", ANY_JSON, "</b>")), "</a>")},
        "triggered_tags with free text",
    ),
    ("structural_tag", {"format": {"type": "any_text", "max": 3}}, "unknown field `max`"),
    ("structural_tag", {"structures": [{"begin": "<a>", "end": ""}], "triggers": ["<b"]}, "no trigger begins '<a>'"),
]


class TestLLGuidance(GrammarSuite):
    name = "llguidance"
    backend = LLGuidanceBackend
    languages = (
        Language("ebnf", 'start: "a" %json {"type": "integer", "not": {"const": 2}} "b"', ("a1b",), ("a2b", "a")),
        Language("ebnf", 'start: "a" N\nN: /[0-9]+/', ("a1", "a123"), ("a", "b1")),
        Language("json_schema", {"type": "array", "items": {"type": "integer"}}, ("[1, 2]", "[]"), ("[1,2]", "[ ]")),
        Language("structural_tag", SPECIAL_TAG, TWO_TAGS, ("free <tool>y", "free <tool>x:2</f>")),
        Language("structural_tag", OTHER_TAG, ("free", "[call]1[/call] free"), ("[call]2[/call]",)),
    )

    def test_what_every_object_begins_with_is_forced(self, opened: LLGuidanceBackend, tokenizer: Any) -> None:
        forced = list(at(opened.compile(Constraint("json_schema", json.dumps(OBJECT))), []).forced())
        assert tokenizer.decode(forced).startswith('{"name of it') and len(forced) > 2

    @pytest.mark.parametrize(("form", "good", "bad"), FORMATS, ids=lambda value: json.dumps(value)[:60])
    def test_formats_of_structural_tags(
        self, opened: LLGuidanceBackend, tokenizer: Any, form: Any, good: tuple[str, ...], bad: tuple[str, ...]
    ) -> None:
        asked = {"type": "structural_tag", "format": form}
        grammar = opened.compile(Constraint("structural_tag", json.dumps(asked)))
        assert [text for text in good if not takes(grammar, tokenizer, text)] == []
        assert [text for text in bad if takes(grammar, tokenizer, text)] == []

    def test_an_output_that_reaches_a_limit_fails_alone(
        self, opened: LLGuidanceBackend, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        constraint = Constraint("json_schema", json.dumps(MANY_STATES))
        begun, words = tokenizer.encode('["a').ids, tokenizer.encode('["' + "some more words " * 9).ids
        wanted = allowed(at(opened.compile(constraint), begun))
        monkeypatch.setattr(backend, "LIMITS", LLParserLimits(max_lexer_states=600, verbose_errors=False))
        grammar = opened.compile(constraint)
        neighbours = [at(grammar, begun), at(grammar, begun[:1])]
        heavy = grammar.start()
        with pytest.raises(ConstraintError, match=r"limit of this server.*too many states"):
            for token in words:
                allowed(heavy)
                heavy.accept([token])
        assert grammar.has_failed
        neighbours[1].accept(begun[1:])
        assert [allowed(neighbour) for neighbour in neighbours] == [wanted] * 2
        neighbours[0].accept(tokenizer.encode('"]').ids)
        assert neighbours[0].is_complete or allowed(neighbours[0]) == [END]

    @pytest.mark.parametrize(("kind", "text", "message"), BAD, ids=str)
    def test_errors_name_what_is_wrong(self, opened: LLGuidanceBackend, kind: str, text: Any, message: str) -> None:
        with pytest.raises(ConstraintError, match=message) as caught:
            opened.compile(Constraint(kind, text if isinstance(text, str) else json.dumps(text)))
        assert len(str(caught.value)) < 1200
