"""What makes a model write tool calls, and write them well: a structural tag for the engine's grammars."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sgcore.api import CallMarkup

ANY_OBJECT: dict[str, Any] = {"type": "object"}


def forced_calls(
    markup: CallMarkup, tools: Sequence[Mapping[str, Any]], only_one: bool = False, thinks_until: str | None = None
) -> str:
    """A structural tag of calls and nothing else: one, or one and more.

    `thinks_until`: the model is thinking, and what ends that; the calls come after it.
    """
    calls = {
        "type": "tags_with_separator",
        "tags": [_tag(markup, tool["function"], is_strict=True) for tool in tools],
        "separator": markup.separator,
        "at_least_one": True,
        "stop_after_first": only_one,
    }
    if thinks_until is None:
        return _structural_tag(calls)
    thought = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": thinks_until}
    return _structural_tag({"type": "sequence", "elements": [thought, calls]})


def strict_calls(markup: CallMarkup, tools: Sequence[Mapping[str, Any]], only_one: bool = False) -> str | None:
    """A structural tag of text in which calls keep to their schema, for tools that are strict; None: none is."""
    functions = [tool["function"] for tool in tools]
    if not any(function.get("strict") for function in functions):
        return None
    tags = {
        "type": "triggered_tags",
        "triggers": [markup.trigger],
        "tags": [_tag(markup, function, bool(function.get("strict"))) for function in functions],
        "at_least_one": False,
        "stop_after_first": only_one,
    }
    return _structural_tag(tags)


def _tag(markup: CallMarkup, function: Mapping[str, Any], is_strict: bool) -> dict[str, Any]:
    schema = (function.get("parameters") or ANY_OBJECT) if is_strict else ANY_OBJECT
    return {
        "type": "tag",
        "begin": markup.begin.replace("{name}", function["name"]),
        "content": {"type": "json_schema", "json_schema": schema},
        "end": markup.end.replace("{name}", function["name"]),
    }


def _structural_tag(format: Mapping[str, Any]) -> str:
    return json.dumps({"type": "structural_tag", "format": format}, ensure_ascii=False)
