"""Messages as clients send them, and as templates get them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sgcore.errors import RequestError
from sgcore.server.conversation import template_message
from sgcore.server.protocol import Message


def given(**message: Any) -> dict[str, Any]:
    return template_message(msgspec.convert({"role": "assistant", **message}, Message), 3)


def called(arguments: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": arguments}}


ARGUMENTS = [
    ('{"city": "Zürich", "n": [1]}', {"city": "Zürich", "n": [1]}),
    ({"a": {"b": None}}, {"a": {"b": None}}),
    ("{}", {}),
    ("", {}),
    (" \n", {}),
    ("null", {}),
    (None, {}),
]


@pytest.mark.parametrize(("arguments", "expected"), ARGUMENTS, ids=repr)
def test_arguments_of_earlier_calls_are_objects(arguments: Any, expected: dict[str, Any]) -> None:
    assert given(tool_calls=[called(arguments)])["tool_calls"] == [called(expected)]
    legacy = given(function_call={"name": "look", "arguments": arguments})
    assert legacy["tool_calls"] == [{"type": "function", "function": {"name": "look", "arguments": expected}}]
    assert "function_call" not in legacy


def test_arguments_may_be_left_out() -> None:
    assert given(tool_calls=[{"function": {"name": "look"}}])["tool_calls"][0]["function"]["arguments"] == {}


@pytest.mark.parametrize("arguments", ["[1, 2]", '"foo"', "1", "true", '{"city": ', "{a}", [1, 2], 3, True, "[" * 3000])
def test_other_arguments_are_refused_with_their_place(arguments: Any) -> None:
    for message, where in (
        ({"tool_calls": [called("{}"), called(arguments)]}, "messages[3].tool_calls[1].function.arguments"),
        ({"function_call": {"name": "look", "arguments": arguments}}, "messages[3].function_call.arguments"),
    ):
        with pytest.raises(RequestError) as caught:
            given(**message)
        assert (caught.value.param, caught.value.status) == (where, 400) and where in str(caught.value)


def test_a_call_of_a_custom_tool_is_a_functions() -> None:
    made = {"id": "call_1", "type": "custom", "custom": {"name": "run", "input": 'print("é")'}}
    (call,) = given(tool_calls=[made])["tool_calls"]
    assert call == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "run", "arguments": {"input": 'print("é")'}},
    }


@pytest.mark.parametrize("call", [{"type": "function"}, {"type": "custom"}, {"type": "web", "function": {"name": "a"}}])
def test_a_call_without_its_function_is_refused(call: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        given(tool_calls=[call])
    assert caught.value.param == "messages[3].tool_calls[0]"


CONTENTS: list[tuple[dict[str, Any], str]] = [
    ({"content": None}, ""),
    ({}, ""),
    ({"content": "a"}, "a"),
    ({"content": None, "refusal": "I won't"}, "I won't"),
    ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "a\nb"),
    ({"content": [{"type": "refusal", "refusal": "no"}]}, "no"),
    ({"content": [{"type": "output_text", "text": "a"}, "b"]}, "a\nb"),
]


@pytest.mark.parametrize(("message", "content"), CONTENTS, ids=repr)
def test_content_is_one_text(message: dict[str, Any], content: str) -> None:
    assert given(**message) == {"role": "assistant", "content": content}


@pytest.mark.parametrize("part", [{"type": "image_url"}, {"type": "text"}, {"type": "refusal", "text": "a"}])
def test_other_parts_are_refused(part: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        given(content=[part])
    assert caught.value.param == "messages[3].content"


@pytest.mark.parametrize(("role", "known"), [("developer", "system"), ("function", "tool"), ("ipython", "ipython")])
def test_roles_that_templates_know(role: str, known: str) -> None:
    assert given(role=role, name="look", content="4") == {"role": known, "name": "look", "content": "4"}


def test_reasoning_has_two_names() -> None:
    expected = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    assert given(content="a", reasoning="hm") == given(content="a", reasoning_content="hm") == expected
