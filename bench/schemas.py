"""200 JSON schemas over the keywords of draft 2020-12, each part alone, in an object, in an array, optional."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

COUNT = 200

Schema = dict[str, Any] | bool
SHORT: dict[str, Any] = {"type": "string", "maxLength": 8}
DIGIT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 9}


def strings() -> Iterator[Schema]:
    yield SHORT
    yield {"type": "string", "minLength": 3, "maxLength": 5}
    yield {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2,4}$"}
    yield {"type": "string", "pattern": "^(cat|dog)s?$"}
    yield {"type": "string", "pattern": "^x+$", "maxLength": 6}
    for form in ("date", "time", "date-time", "duration", "ipv4", "ipv6", "uuid"):
        yield {"type": "string", "format": form}
    for form in ("email", "hostname", "uri", "idn-email", "json-pointer", "regex"):
        yield {"type": "string", "format": form, "maxLength": 20}
    yield {"type": "string", "contentEncoding": "base64", "maxLength": 8}


def numbers() -> Iterator[Schema]:
    yield DIGIT
    yield {"type": "integer", "exclusiveMinimum": -5, "exclusiveMaximum": 5}
    yield {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}
    yield {"type": "number", "minimum": 0.5, "maximum": 2.25}
    yield {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    yield {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 4}


def choices() -> Iterator[Schema]:
    yield {"type": "boolean"}
    yield {"type": "null"}
    yield {"type": ["integer", "null"], "minimum": 1, "maximum": 3}
    yield {"const": "exactly this"}
    yield {"const": {"a": [1, None, True]}}
    yield {"enum": ["red", "green", "blue"]}
    yield {"enum": [1, "1", None, {"one": 1}, [1]]}
    yield {"type": "string", "enum": [f"option number {place}" for place in range(200)]}


def arrays() -> Iterator[Schema]:
    yield {"type": "array", "items": DIGIT, "maxItems": 4}
    yield {"type": "array", "items": SHORT, "minItems": 2, "maxItems": 3}
    yield {"type": "array", "prefixItems": [DIGIT, SHORT], "items": False, "minItems": 2}
    yield {"type": "array", "prefixItems": [DIGIT], "items": {"type": "boolean"}, "maxItems": 4}
    yield {"type": "array", "items": {"type": "array", "items": DIGIT, "maxItems": 2}, "maxItems": 2}
    yield {"type": "array", "items": DIGIT, "uniqueItems": True, "maxItems": 3}
    yield {"type": "array", "items": DIGIT, "contains": {"const": 7}, "maxItems": 3}
    yield {"type": "array", "items": DIGIT, "contains": {"const": 7}, "minContains": 2, "maxContains": 3, "maxItems": 4}
    yield {"type": "array", "prefixItems": [DIGIT], "unevaluatedItems": False, "maxItems": 2}


def objects() -> Iterator[Schema]:
    both = {"a": DIGIT, "b": SHORT}
    yield closed(both, "a", "b")
    yield closed(both, "b")
    yield {"type": "object", "additionalProperties": DIGIT, "maxProperties": 2}
    yield {
        "type": "object",
        "properties": both,
        "required": ["a"],
        "additionalProperties": {"const": 1},
        "maxProperties": 3,
    }
    yield {
        "type": "object",
        "patternProperties": {"^k[0-9]$": DIGIT},
        "additionalProperties": False,
        "maxProperties": 2,
    }
    yield {"type": "object", "propertyNames": {"maxLength": 3}, "additionalProperties": DIGIT, "maxProperties": 2}
    yield {"type": "object", "additionalProperties": DIGIT, "minProperties": 1, "maxProperties": 2}
    yield {**closed(both), "dependentRequired": {"a": ["b"]}}
    yield {**closed(both), "dependentSchemas": {"a": {"required": ["b"]}}}
    yield {"type": "object", "properties": both, "unevaluatedProperties": False}
    yield closed({"inner": closed({"innermost": DIGIT}, "innermost")}, "inner")


def combinations() -> Iterator[Schema]:
    yield {"anyOf": [DIGIT, {"type": "boolean"}]}
    yield {"oneOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]}
    yield {"oneOf": [DIGIT, {"type": "integer", "minimum": 5, "maximum": 12}]}
    yield {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}]}
    yield {"allOf": [closed({"a": DIGIT}, "a"), {"required": ["a"]}]}
    yield {"type": "integer", "minimum": 0, "maximum": 5, "not": {"const": 3}}
    yield {"if": {"type": "integer"}, "then": {"minimum": 5}, "else": {"type": "null"}}
    yield {"anyOf": [closed({"kind": {"const": kind}, "size": DIGIT}, "kind", "size") for kind in ("cup", "box")]}


def references() -> Iterator[Schema]:
    yield {"$defs": {"d": DIGIT}, "$ref": "#/$defs/d"}
    yield {"$defs": {"d": {"$anchor": "digit", **DIGIT}}, "$ref": "#digit"}
    tree = closed({"value": DIGIT, "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}}, "value", "next")
    yield {"$defs": {"tree": tree}, "$ref": "#/$defs/tree"}
    yield {"$defs": {"d": {"$dynamicAnchor": "d", **DIGIT}}, "$dynamicRef": "#d"}


def annotations() -> Iterator[Schema]:
    notes = {"title": "t", "description": "d", "default": 1, "examples": [2], "$comment": "c", "deprecated": True}
    yield {**DIGIT, **notes, "readOnly": True, "writeOnly": False}


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def schemas() -> list[Schema]:
    """References stay at the top, where their paths hold."""
    parts = [*strings(), *numbers(), *choices(), *arrays(), *objects(), *combinations(), *annotations()]
    inside = [closed({"name of the part": part, "count": DIGIT}, "name of the part") for part in parts]
    listed: list[Schema] = [{"type": "array", "items": part, "minItems": 1, "maxItems": 2} for part in parts]
    optional: list[Schema] = [{"anyOf": [part, {"type": "null"}]} for part in parts]
    return [*references(), *parts, *inside, *listed, *optional][:COUNT]


def keywords(schema: Any) -> set[str]:
    """Every keyword that stands in a schema, those of its parts included."""
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    if not isinstance(schema, dict):
        return set()
    named = ("properties", "patternProperties", "$defs", "dependentSchemas")
    found = set(schema)
    for key, value in schema.items():
        if key in named:
            found |= set().union(*map(keywords, value.values()))
        elif key not in ("const", "enum", "examples", "default", "dependentRequired"):
            found |= keywords(value)
    return found
