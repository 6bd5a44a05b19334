"""Schemas of few values: all of them, tried by a validator."""

from __future__ import annotations

import itertools
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import referencing
import referencing.exceptions

from sgcore.errors import ConstraintError
from sgcore_llguidance.schemas.kinds import identity
from sgcore_llguidance.schemas.negation import NoForm
from sgcore_llguidance.schemas.numbers import integer_limits
from sgcore_llguidance.schemas.references import References

Schema = dict[str, Any]
MOST = 1024
DEPTH = 8
NOT_TRIED = frozenset(("pattern", "patternProperties", "format", "$dynamicRef"))
"""Keywords that a validator may take for ever over, or reads otherwise than the library does."""


class Values:
    """Lists the values of schemas of one document."""

    def __init__(self, root: Any, references: References) -> None:
        self._references = references
        self._validator = jsonschema.Draft202012Validator(root, registry=referencing.Registry())
        """Its empty registry keeps it from fetching anything."""

    def of(self, schema: Any) -> list[Any] | None:
        """Every value of a schema, up to the spelling of numbers; None: too many, or it can't be known."""
        if self._has_untried(schema, set()):
            return None
        found = self._candidates(schema, DEPTH)
        if found is None:
            return None
        return list({identity(value): value for value in found if self._matches(schema, value)}.values())

    def allow(self, schema: Any, value: Any) -> bool:
        """Whether a schema allows a value. Raises NoForm where that can't be known."""
        if self._has_untried(schema, set()):
            raise NoForm("pattern")
        return self._matches(schema, value)

    def _matches(self, schema: Any, value: Any) -> bool:
        try:
            return bool(self._validator.evolve(schema=schema).is_valid(value))
        except (referencing.exceptions.Unresolvable, TypeError, AttributeError, ValueError) as error:
            raise ConstraintError(f"the schema can't be read: {type(error).__name__}: {error}") from error

    def _has_untried(self, schema: Any, seen: set[int]) -> bool:
        if isinstance(schema, list):
            return any(self._has_untried(part, seen) for part in schema)
        if not isinstance(schema, dict) or id(schema) in seen:
            return False
        seen.add(id(schema))
        if NOT_TRIED & set(schema):
            return True
        target = [self._references.find(schema["$ref"])] if "$ref" in schema else []
        return any(self._has_untried(part, seen) for part in (*schema.values(), *target))

    def _candidates(self, schema: Any, depth: int) -> list[Any] | None:
        """Values among which all of the schema's are."""
        if not isinstance(schema, dict) or not depth:
            return None if schema else []
        if "const" in schema:
            return [schema["const"]]
        if isinstance(schema.get("enum"), list):
            return list(schema["enum"][:MOST])
        if "type" in schema:
            types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
            found = [self._of_type(name, schema, depth) for name in types]
            return _joined(found)
        for part in [*schema.get("allOf", ()), *([self._references.find(schema["$ref"])] if "$ref" in schema else [])]:
            if (values := self._candidates(part, depth - 1)) is not None:
                return values
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return _joined([self._candidates(part, depth - 1) for part in schema[keyword]])
        return None

    def _of_type(self, name: str, schema: Schema, depth: int) -> list[Any] | None:
        if name == "boolean":
            return [False, True]
        if name == "null":
            return [None]
        if name == "integer":
            low, high = integer_limits(schema)
            return None if low is None or high is None or high - low >= MOST else list(range(low, high + 1))
        if name == "array":
            return self._arrays(schema, depth)
        return self._objects(schema, depth) if name == "object" else None

    def _arrays(self, schema: Schema, depth: int) -> list[Any] | None:
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        longest = schema.get("maxItems", len(first) if rest is False else None)
        if longest is None or longest > DEPTH:
            return None
        parts = [self._candidates(part, depth - 1) for part in [*first, *[rest] * (longest - len(first))][:longest]]
        found: list[Any] = []
        for length in range(schema.get("minItems", 0), longest + 1):
            rows = _product(parts[:length])
            if rows is None or len(found) + len(rows) > MOST:
                return None
            found += map(list, rows)
        return found

    def _objects(self, schema: Schema, depth: int) -> list[Any] | None:
        if schema.get("additionalProperties") is not False or "patternProperties" in schema:
            return None
        names, required = list(schema.get("properties", {})), schema.get("required", ())
        parts: list[list[Any] | None] = []
        for name in names:
            values = self._candidates(schema["properties"][name], depth - 1)
            absent = [] if name in required else [ABSENT]
            parts.append(None if values is None else absent + values)
        rows = _product(parts)
        if rows is None:
            return None
        return [{key: part for key, part in zip(names, row, strict=True) if part is not ABSENT} for row in rows]


ABSENT = object()


def _joined(found: list[list[Any] | None]) -> list[Any] | None:
    values: list[Any] = []
    for part in found:
        if part is None or len(values) + len(part) > MOST:
            return None
        values += part
    return values


def _product(parts: list[list[Any] | None]) -> list[tuple[Any, ...]] | None:
    count = 1
    known = [part for part in parts if part is not None]
    for part in known:
        count *= len(part)
    if len(known) < len(parts) or count > MOST:
        return None
    return list(itertools.product(*known))
