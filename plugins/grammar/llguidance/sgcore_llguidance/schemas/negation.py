"""`not`: a schema of the values that another schema refuses, where the keywords have such a form."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sgcore_llguidance.schemas.drafts import FREE
from sgcore_llguidance.schemas.kinds import EVERY, NUMBERS, Types, type_of, typed, types_of

Schema = dict[str, Any]


class NoForm(Exception):
    """A keyword has no equivalent in those that the library follows."""


def refused_by(schema: Any, types: Types) -> list[Any]:
    """Alternatives that together are the values of these types that `schema`, which is plain, doesn't allow.

    Schemas inside of it are negated by a `not` of their own. Raises NoForm.
    """
    if schema in FREE:
        return []
    if schema is False:
        return _of(types)
    own = types_of({"type": schema["type"]}) if "type" in schema else EVERY
    found = _of(types - own)
    for keyword in schema:
        if keyword == "type" or (keyword in CONCERNS and not types & own & CONCERNS[keyword]):
            continue
        if keyword not in NEGATIONS:
            raise NoForm(keyword)
        found += NEGATIONS[keyword](schema, types & own)
    return found


def _of(types: Types) -> list[Any]:
    if not types:
        return []
    schema = typed(types)
    if schema is None:
        raise NoForm("not")
    return [schema]


def _not_listed(values: list[Any], types: Types) -> list[Any]:
    """All values of some types but these."""
    kinds = {type_of(value) for value in values}
    found = _of(types - kinds - NUMBERS - {"boolean"} - (frozenset(kinds) & {"null"}))
    if kinds & types & {"object", "array"}:
        raise NoForm("not")
    if "boolean" in types:
        left = [value for value in (False, True) if not any(value is given for given in values)]
        found += [{"enum": left}] if left else []
    if types & NUMBERS:
        found += _between([value for value in values if type_of(value) in NUMBERS], types)
    if "string" in types and "string" in kinds:
        found.append({"type": "string", "pattern": other_texts([v for v in values if isinstance(v, str)])})
    return found


def _between(numbers: list[float], types: Types) -> list[Any]:
    kind = "number" if "fraction" in types else "integer"
    if "integer" not in types:
        raise NoForm("not")
    places = sorted(set(numbers))
    lows: list[Schema] = [{}, *({"exclusiveMinimum": place} for place in places)]
    highs: list[Schema] = [*({"exclusiveMaximum": place} for place in places), {}]
    ranges = [{"type": kind, **low, **high} for low, high in zip(lows, highs, strict=True)]
    return [one for one in ranges if kind == "number" or not _is_empty(one)]


def _is_empty(one: Schema) -> bool:
    return one.get("exclusiveMaximum", 2) - one.get("exclusiveMinimum", 0) <= 1 and len(one) == 3


def other_texts(texts: list[str]) -> str:
    """A pattern of every text but these: each proper prefix that isn't one of them, and each first difference."""
    following: dict[str, set[str]] = {}
    for text in texts:
        for length in range(len(text) + 1):
            following.setdefault(text[:length], set()).update(text[length : length + 1])
    parts = []
    for prefix, characters in following.items():
        others = "[^" + "".join(map(_escaped, sorted(characters))) + "]" if characters else ANY_CHARACTER
        end = "" if prefix in texts else "?"
        parts.append(f"{''.join(map(_escaped, prefix))}(?:{others}{ANY_CHARACTER}*){end}")
    return f"^(?:{'|'.join(parts)})$"


ANY_CHARACTER = r"[\s\S]"


def _escaped(character: str) -> str:
    return re.escape(character) if character.isascii() and character.isprintable() else f"\\u{{{ord(character):x}}}"


def _properties(schema: Schema, types: Types) -> list[Any]:
    return [
        {"type": "object", "required": [name], "properties": {name: {"not": part}}}
        for name, part in schema["properties"].items()
        if part not in FREE
    ]


def _prefix_items(schema: Schema, types: Types) -> list[Any]:
    return [
        {"type": "array", "minItems": place + 1, "prefixItems": [*[True] * place, {"not": part}]}
        for place, part in enumerate(schema["prefixItems"])
        if part not in FREE
    ]


def _count(type_: str, keyword: str, other: str, step: int) -> Callable[[Schema, Types], list[Any]]:
    def negated(schema: Schema, types: Types) -> list[Any]:
        bound = schema[keyword] + step
        return [{"type": type_, other: bound}] if bound >= 0 else []

    return negated


def _bound(keyword: str, other: str) -> Callable[[Schema, Types], list[Any]]:
    def negated(schema: Schema, types: Types) -> list[Any]:
        if "integer" not in types:
            raise NoForm("not")
        return [{"type": "number" if "fraction" in types else "integer", other: schema[keyword]}]

    return negated


NEGATIONS: dict[str, Callable[[Schema, Types], list[Any]]] = {
    "const": lambda schema, types: _not_listed([schema["const"]], types),
    "enum": lambda schema, types: _not_listed(schema["enum"], types),
    "minimum": _bound("minimum", "exclusiveMaximum"),
    "maximum": _bound("maximum", "exclusiveMinimum"),
    "exclusiveMinimum": _bound("exclusiveMinimum", "maximum"),
    "exclusiveMaximum": _bound("exclusiveMaximum", "minimum"),
    "minLength": _count("string", "minLength", "maxLength", -1),
    "maxLength": _count("string", "maxLength", "minLength", 1),
    "minItems": _count("array", "minItems", "maxItems", -1),
    "maxItems": _count("array", "maxItems", "minItems", 1),
    "required": lambda schema, types: [{"type": "object", "properties": {name: False}} for name in schema["required"]],
    "properties": _properties,
    "prefixItems": _prefix_items,
    "anyOf": lambda schema, types: [{"allOf": [{"not": part} for part in schema["anyOf"]], **(typed(types) or {})}],
    "allOf": lambda schema, types: [{"not": part, **(typed(types) or {})} for part in schema["allOf"]],
    "not": lambda schema, types: [{"allOf": [schema["not"]], **(typed(types) or {})}],
}
"""Keyword -> alternatives of what it refuses, among values of some types."""
CONCERNS: dict[str, Types] = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), NUMBERS),
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), frozenset({"string"})),
    **dict.fromkeys(("minItems", "maxItems", "prefixItems", "items", "uniqueItems", "contains"), frozenset({"array"})),
    **dict.fromkeys(("required", "properties", "additionalProperties", "patternProperties"), frozenset({"object"})),
    **dict.fromkeys(("propertyNames", "minProperties", "maxProperties"), frozenset({"object"})),
}
"""Types that a keyword is about; it allows everything of the others."""
