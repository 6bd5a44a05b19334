"""What makes a model write tool calls, and write them well: texts for the constraints of `SamplingParams`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sgcore.api import CallMarkup

ANY_OBJECT: dict[str, Any] = {"type": "object"}


def forced_calls(tools: Sequence[Mapping[str, Any]], only_one: bool = False) -> str:
    """A JSON schema of a list of calls: one, or one and more.

    Plain JSON, whatever the model's own format is: every grammar backend has JSON schemas, and a call can be forced in
    formats that no grammar describes. `Format.with_listed_calls` reads it.
    """
    functions = [tool["function"] for tool in tools]
    definitions = {
        str(place): _moved(function.get("parameters") or ANY_OBJECT, f"#/$defs/{place}")
        for place, function in enumerate(functions)
    }
    calls = [_call(function["name"], f"#/$defs/{place}") for place, function in enumerate(functions)]
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}, "$defs": definitions}
    return _dumped(schema | {"maxItems": 1} if only_one else schema)


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": arguments}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, root: str) -> Any:
    """The schema with references into itself that hold where its root is now `root`."""
    if isinstance(schema, list):
        return [_moved(part, root) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(value, root) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = root + reference[1:]
    return moved


def strict_calls(markup: CallMarkup, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """A structural tag: free text in which calls keep to their schema, for tools that are strict; None: none is."""
    functions = [tool["function"] for tool in tools]
    if not any(function.get("strict") for function in functions):
        return None
    structures = [
        {
            "begin": markup.begin.replace("{name}", function["name"]),
            "schema": function.get("parameters") or ANY_OBJECT if function.get("strict") else ANY_OBJECT,
            "end": markup.end.replace("{name}", function["name"]),
        }
        for function in functions
    ]
    return _dumped({"type": "structural_tag", "structures": structures, "triggers": [markup.trigger]})


def _dumped(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
