from __future__ import annotations

import json
from typing import Any

from sgcore.api import CallMarkup
from sgcore.parsing.constraints import forced_calls, strict_calls

MARKUP = CallMarkup('<call>{"name": "{name}", "arguments": ', "}</call>", "<call>", "\n")
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, **more}}


def tag(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "tag",
        "begin": f'<call>{{"name": "{name}", "arguments": ',
        "content": {"type": "json_schema", "json_schema": schema},
        "end": "}</call>",
    }


def test_forced_calls_are_all_there_is() -> None:
    made = json.loads(forced_calls(MARKUP, [tool("f"), tool("g", parameters=None)]))
    assert made == {
        "type": "structural_tag",
        "format": {
            "type": "tags_with_separator",
            "tags": [tag("f", SCHEMA), tag("g", {"type": "object"})],
            "separator": "\n",
            "at_least_one": True,
            "stop_after_first": False,
        },
    }
    assert json.loads(forced_calls(MARKUP, [tool("f")], only_one=True))["format"]["stop_after_first"]


def test_forced_calls_come_after_thinking() -> None:
    made = json.loads(forced_calls(MARKUP, [tool("f")], thinks_until="</think>"))["format"]
    thought, calls = made["elements"]
    assert made["type"] == "sequence" and calls["type"] == "tags_with_separator"
    assert thought == {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": "</think>"}


def test_only_strict_tools_constrain_text_with_calls() -> None:
    assert strict_calls(MARKUP, [tool("f"), tool("g")]) is None
    made = json.loads(strict_calls(MARKUP, [tool("f", strict=True), tool("g")]) or "")
    assert made["format"] == {
        "type": "triggered_tags",
        "triggers": ["<call>"],
        "tags": [tag("f", SCHEMA), tag("g", {"type": "object"})],
        "at_least_one": False,
        "stop_after_first": False,
    }
