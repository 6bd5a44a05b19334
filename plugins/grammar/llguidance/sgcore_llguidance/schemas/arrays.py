"""Keywords of arrays that the library doesn't have, in those it has."""

from __future__ import annotations

import itertools
from typing import Any

from sgcore_llguidance.schemas.negation import NoForm

Schema = dict[str, Any]
MOST_ITEMS = 6
MOST_OPTIONS = 64
NO_ARRAYS: Schema = {"type": ["null", "boolean", "number", "string", "object"]}


def containing(schema: Schema) -> Schema:
    """`contains`, `minContains` and `maxContains` of a short array: where its matches stand. Raises NoForm."""
    longest = schema.get("maxItems")
    if longest is None or longest > MOST_ITEMS:
        raise NoForm("contains of an array without a maxItems of at most 6")
    wanted, low, high = schema["contains"], schema.get("minContains", 1), schema.get("maxContains")
    if high is None:
        options = [_at_least(wanted, places) for places in itertools.combinations(range(longest), low)]
    else:
        options = [
            {"type": "array", "minItems": length, "maxItems": length, "prefixItems": list(row)}
            for length in range(longest + 1)
            for row in itertools.product(({"not": wanted}, wanted), repeat=length)
            if low <= sum(part is wanted for part in row) <= high
        ]
    if len(options) > MOST_OPTIONS:
        raise NoForm("contains")
    return {"anyOf": [*options, NO_ARRAYS]}


def _at_least(wanted: Any, places: tuple[int, ...]) -> Schema:
    items = [wanted if place in places else True for place in range(max(places, default=-1) + 1)]
    return {"type": "array", "minItems": len(items), "prefixItems": items}


def without_unevaluated(schema: Schema) -> Schema:
    """The schema without `unevaluatedItems`, where no other part of it looks at items. Raises NoForm."""
    rest = {key: value for key, value in schema.items() if key != "unevaluatedItems"}
    if "items" in rest:
        return rest
    if {"allOf", "anyOf", "oneOf", "if", "$ref", "contains", "dependentSchemas"} & set(rest):
        raise NoForm("unevaluatedItems")
    return {**rest, "items": schema["unevaluatedItems"]}
