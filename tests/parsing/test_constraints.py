from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from sgcore.api import CallMarkup
from sgcore.parsing.constraints import forced_calls, strict_calls

MARKUP = CallMarkup('<call>{"name": "{name}", "arguments": ', "}</call>", "<call>")
TREE = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/leaf"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["a"],
    "$defs": {"leaf": {"type": "string", "description": "a $ref"}},
}
OTHER = {"type": "object", "properties": {"a": {"$ref": "#/$defs/leaf"}}, "$defs": {"leaf": {"type": "integer"}}}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": TREE, **more}}


TOOLS = [tool("f"), tool("g", parameters=OTHER), tool("h", parameters=None)]


@pytest.mark.parametrize(
    ("calls", "is_valid"),
    [
        ([{"name": "f", "arguments": {"a": "x", "children": [{"a": "y", "children": []}]}}], True),
        ([{"name": "f", "arguments": {"a": "x", "children": [{"a": 1}]}}], False),
        ([{"name": "g", "arguments": {"a": 1}}, {"name": "h", "arguments": {"any": "thing"}}], True),
        ([{"name": "g", "arguments": {"a": "x"}}], False),
        ([{"name": "f", "arguments": {}}], False),
        ([{"name": "other", "arguments": {}}], False),
        ([{"name": "h"}], False),
        ([], False),
    ],
)
def test_forced_calls_follow_each_tools_own_schema(calls: list[Any], is_valid: bool) -> None:
    schema = json.loads(forced_calls(TOOLS))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(calls) == is_valid


def test_only_one_is_forced_if_asked_for() -> None:
    one, two = ([{"name": "h", "arguments": {}}] * count for count in (1, 2))
    schema = json.loads(forced_calls(TOOLS, only_one=True))
    assert jsonschema.Draft202012Validator(schema).is_valid(one)
    assert not jsonschema.Draft202012Validator(schema).is_valid(two)


def test_only_strict_tools_constrain_text_with_calls() -> None:
    assert strict_calls(MARKUP, TOOLS) is None
    made = json.loads(strict_calls(MARKUP, [tool("f", strict=True), tool("g")]) or "")
    assert made == {
        "type": "structural_tag",
        "structures": [
            {"begin": '<call>{"name": "f", "arguments": ', "schema": TREE, "end": "}</call>"},
            {"begin": '<call>{"name": "g", "arguments": ', "schema": {"type": "object"}, "end": "}</call>"},
        ],
        "triggers": ["<call>"],
    }
