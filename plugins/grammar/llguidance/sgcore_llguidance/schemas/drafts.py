"""Schemas of older drafts in the words of draft 2020-12, and without what says nothing."""

from __future__ import annotations

import reprlib
from typing import Any

from sgcore.errors import ConstraintError

Schema = dict[str, Any]

FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid uri".split())
"""Formats that are followed; all others are annotations, as the draft says."""
KEYWORDS = frozenset(
    "type const enum minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern format "
    "minItems maxItems uniqueItems items prefixItems contains minContains maxContains unevaluatedItems minProperties "
    "maxProperties required properties patternProperties additionalProperties propertyNames dependentRequired "
    "dependentSchemas unevaluatedProperties allOf anyOf oneOf not if then else $ref $dynamicRef $recursiveRef".split()
)
"""All that say something about a value; others are annotations."""
COUNTS = frozenset("minItems maxItems minLength maxLength minProperties maxProperties minContains maxContains".split())
SAYS_NOTHING: Schema = {
    "uniqueItems": False,
    "unevaluatedItems": True,
    "unevaluatedProperties": True,
    "propertyNames": True,
    "dependentRequired": {},
    "dependentSchemas": {},
    "patternProperties": {},
    "required": [],
    "allOf": [],
    "prefixItems": [],
    "minContains": 1,
    "minItems": 0,
    "minLength": 0,
    "minProperties": 0,
    "not": False,
}
FREE: tuple[Any, ...] = ({}, True)
"""Schemas that allow everything."""
SHAPES: dict[str, tuple[Any, str]] = {
    **dict.fromkeys("allOf anyOf oneOf prefixItems enum required".split(), (list, "an array")),
    **dict.fromkeys("properties patternProperties dependentRequired dependentSchemas".split(), (dict, "an object")),
    **dict.fromkeys(
        "not if then else items contains unevaluatedItems additionalProperties propertyNames "
        "unevaluatedProperties".split(),
        ((dict, bool), "a schema"),
    ),
    **dict.fromkeys(COUNTS, (int, "a whole number")),
    **dict.fromkeys("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split(), ((int, float), "a number")),
    **dict.fromkeys(("format", "pattern"), (str, "a text")),
    "type": ((str, list), "a type or an array of types"),
}
"""What the values of keywords have to be."""


def plain(schema: Any) -> Any:
    """The schema without annotations and keywords that allow everything; schemas inside of it are left as they are."""
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if key in KEYWORDS}
    for key in COUNTS & set(kept):
        if isinstance(kept[key], float) and kept[key].is_integer():
            kept[key] = int(kept[key])
    _check_shapes(kept)
    if "format" in kept and kept["format"] not in FORMATS:
        del kept["format"]
    _drop_lone(kept)
    for key, value in SAYS_NOTHING.items():
        given = kept.get(key)
        if (type(given) is type(value) and given == value) or (value is True and given == {}):
            del kept[key]
    return kept


def _check_shapes(schema: Schema) -> None:
    for key, value in schema.items():
        kinds, words = SHAPES.get(key, (object, ""))
        if not isinstance(value, kinds) or (kinds is int and (value is True or value is False or int(value) < 0)):
            raise ConstraintError(f"{key} of a schema must be {words}, got {reprlib.repr(value)}")


def _drop_lone(schema: Schema) -> None:
    """Drop keywords that mean something only beside another one."""
    is_free = schema.get("then", True) in FREE and schema.get("else", True) in FREE
    if "if" not in schema or is_free:
        for key in ("if", "then", "else"):
            schema.pop(key, None)
    if schema.get("minContains") == 0 and "maxContains" not in schema:
        schema.pop("contains", None)
    if "contains" not in schema:
        schema.pop("minContains", None)
        schema.pop("maxContains", None)


def modern(root: Any) -> Any:
    """A document of draft 7 or earlier, if it says that it is one, in the words of draft 2020-12."""
    said = root.get("$schema") if isinstance(root, dict) else None
    is_old = isinstance(said, str) and any(f"draft-0{number}" in said for number in (3, 4, 6, 7))
    return _modern(root) if is_old else root


def _modern(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_modern(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("$ref"), str):  # nothing counted beside it
        schema = {key: schema[key] for key in ("$ref", "$defs", "definitions") if key in schema}
    schema = {key: value if key in ("const", "enum") else _modern(value) for key, value in schema.items()}
    if isinstance(schema.get("items"), list):
        schema["prefixItems"] = schema.pop("items")
        schema["items"] = schema.pop("additionalItems", True)
    if isinstance(schema.get("dependencies"), dict):
        for name, value in schema.pop("dependencies").items():
            keyword = "dependentRequired" if isinstance(value, list) else "dependentSchemas"
            schema.setdefault(keyword, {})[name] = value
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(exclusive), bool):
            is_exclusive = schema.pop(exclusive)
            if is_exclusive and bound in schema:
                schema[exclusive] = schema.pop(bound)
    return schema
