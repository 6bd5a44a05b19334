"""Compiling response templates, and what is derived from them."""

from __future__ import annotations

from typing import Any

import pytest

from sgcore.api import CallMarkup, ResponseFormat
from sgcore.errors import LaunchError
from sgcore.parsing.formats import CallForm, Format, compiled, joined_format


def calls(**spec: Any) -> Format:
    return Format.of(ResponseFormat({"start_anchor": ["<a>", "<b>"], "fields": {"tool_calls": spec}}))


def function(value: Any) -> dict[str, Any]:
    return {"type": "function", "function": value}


OBJECT = {"open": "<c>", "close": "</c>", "content": "json", "transform": function("{content}")}
THINK = ResponseFormat({"start_anchor": "<t>", "fields": {"thinking": {"open": "<think>", "close": "</think>"}}})


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        (OBJECT, CallForm("name", "arguments")),
        (OBJECT | {"transform": function({"name": "{content.n}", "arguments": "{content.p}"})}, CallForm("n", "p")),
        (
            OBJECT | {"transform_each": True, "transform": function({"name": "{n}", "arguments": "{p}"})},
            CallForm("n", "p"),
        ),
        (
            {
                "open_pattern": r"<c (?P<n>\w+)>",
                "content": "json",
                "transform": function({"name": "{n}", "arguments": "{content}"}),
            },
            CallForm(capture="n"),
        ),
        (OBJECT | {"transform": function({"name": "fixed", "arguments": "{content}"})}, None),
        (OBJECT | {"transform": function({"name": "{content.a.b}", "arguments": "{content.p}"})}, None),
        (OBJECT | {"content_args": {"unquoted_keys": True}}, None),
        ({"open": "<c>", "content": "kv-lines", "transform": function("{content}")}, None),
    ],
)
def test_json_calls_are_recognised(spec: dict[str, Any], form: CallForm | None) -> None:
    assert calls(**spec).regions[0].form == form


def test_markup_is_derived_from_literal_delimiters() -> None:
    assert calls(**OBJECT).call == CallMarkup('<c>{"name": "{name}", "arguments": ', "}</c>", "<c>")
    assert calls(**(OBJECT | {"open": ["<c>", "<d>"]})).call is None


def test_the_turn_begins_behind_the_last_anchor() -> None:
    format = calls(**OBJECT)
    assert format.turn("<a>one<b>two") == "two" and format.turn("nothing") == ""


def test_special_tokens_are_found_in_literals_and_patterns() -> None:
    format = calls(open_pattern=r"\[TOOL\]", close=["x", "[END]"], content="json", transform=function("{content}"))
    assert format.marks_with(["[TOOL]"]) and format.marks_with(["[END]"]) and not format.marks_with(["[OTHER]"])


def test_calls_of_one_format_and_reasoning_of_another() -> None:
    tools, think = calls(**OBJECT), Format.of(THINK)
    both = joined_format(tools, think)
    assert both is not None and both.has_calls and both.has_reasoning and both.reasoning_end == "</think>"
    assert both.turn("<t>a<a>b") == "b" and both.turn("<a>b<t>c") == "c"
    only = joined_format(None, both)
    assert only is not None and not only.has_calls
    without = joined_format(both, None)
    assert without is not None and without.has_calls and not without.has_reasoning
    assert joined_format(None, None) is None


def test_a_broken_template_ends_the_start() -> None:
    with pytest.raises(LaunchError, match="the tokenizer has a response template that transformers refuses"):
        compiled(ResponseFormat({"fields": {"content": {}}}), "the tokenizer")
    with pytest.raises(LaunchError, match="unknown content parser"):
        compiled(ResponseFormat({"start_anchor": "x", "fields": {"content": {"content": "yaml"}}}), "it")
