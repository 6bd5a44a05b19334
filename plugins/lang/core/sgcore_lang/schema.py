"""JSON schemas from whatever says one."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def json_schema_of(value: Any) -> str:
    """A JSON schema as text: of a text, a dictionary, a pydantic model, or a type that msgspec knows.

    Raises ValueError for text that is no JSON, TypeError for a type that has no schema.
    """
    if isinstance(value, str):
        json.loads(value)
        return value
    if isinstance(value, dict):
        return json.dumps(value)
    if hasattr(value, "model_json_schema"):
        return json.dumps(value.model_json_schema())
    return json.dumps(msgspec.json.schema(value))
