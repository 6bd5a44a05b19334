"""Which types of values a schema allows, and when two schemas have no value in common."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

Schema = dict[str, Any]
Types = frozenset[str]
EVERY: Types = frozenset(("null", "boolean", "object", "array", "string", "integer", "fraction"))
"""JSON's types, `number` in its two parts."""
NUMBERS: Types = frozenset(("integer", "fraction"))


def type_of(value: Any) -> str:
    """The type of a value."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    names = {type(None): "null", float: "fraction", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def types_of(schema: Any) -> Types:
    """Types that a schema's own `type`, `const`, `enum` and `allOf` leave."""
    if not isinstance(schema, dict):
        return EVERY if schema else frozenset()
    found = EVERY
    if "type" in schema:
        found &= _named(schema["type"])
    for values in ([schema["const"]] if "const" in schema else None, schema.get("enum")):
        if isinstance(values, list):
            found &= frozenset(map(type_of, values))
    for part in schema.get("allOf", ()):
        found &= types_of(part)
    return found


def _named(names: Any) -> Types:
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list):
        return EVERY
    return frozenset().union(*(NUMBERS if name == "number" else {str(name)} for name in listed))


def typed(types: Types) -> Schema | None:
    """A schema of these types; None where it would be numbers without integers, which has no keyword."""
    if "fraction" in types and "integer" not in types:
        return None
    names = sorted(types - NUMBERS)
    if "integer" in types:
        names.append("number" if "fraction" in types else "integer")
    return {"type": names[0] if len(names) == 1 else names}


def identity(value: Any) -> str:
    """The same text for equal values; 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, list):
        return f"[{','.join(map(identity, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{identity(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def are_disjoint(one: Any, other: Any) -> bool:
    """Whether it is plain that no value matches both."""
    types = types_of(one) & types_of(other)
    if not types:
        return True
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    listed = _values(one), _values(other)
    if listed[0] is not None and listed[1] is not None:
        return not {identity(value) for value in listed[0]} & {identity(value) for value in listed[1]}
    return types == {"object"} and (_differ(one, other) or _lacks(one, other) or _lacks(other, one))


def all_disjoint(schemas: Iterable[Any]) -> bool:
    """Whether each two of some schemas are disjoint."""
    listed = list(schemas)
    return all(are_disjoint(one, other) for place, one in enumerate(listed) for other in listed[:place])


def _values(schema: Schema) -> list[Any] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None


def _differ(one: Schema, other: Schema) -> bool:
    """Whether both require a property whose schemas are disjoint."""
    common = set(one.get("required", ())) & set(other.get("required", ()))
    first, second = one.get("properties", {}), other.get("properties", {})
    return any(name in first and name in second and are_disjoint(first[name], second[name]) for name in common)


def _lacks(closed: Schema, other: Schema) -> bool:
    """Whether the second requires a property that the first doesn't have."""
    if closed.get("additionalProperties") is not False or closed.get("patternProperties"):
        return False
    return not set(other.get("required", ())) <= set(closed.get("properties", {}))
