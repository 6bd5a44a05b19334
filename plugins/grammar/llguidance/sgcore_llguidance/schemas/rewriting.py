"""From a JSON schema to one of the keywords that the grammar library follows exactly, with the same meaning.

What has no such form is left as it is, and the library refuses it by name.
"""

from __future__ import annotations

import contextlib
from typing import Any

from sgcore.errors import ConstraintError
from sgcore_llguidance.schemas import arrays, objects
from sgcore_llguidance.schemas.drafts import modern, plain
from sgcore_llguidance.schemas.kinds import EVERY, NUMBERS, Types, all_disjoint, types_of
from sgcore_llguidance.schemas.negation import NoForm, refused_by
from sgcore_llguidance.schemas.numbers import (
    BOUNDS,
    EXACT,
    check_divisors,
    exact_constant,
    has_fractions_near_zero,
    integer_limits,
    integer_pattern,
    with_exact_bounds,
)
from sgcore_llguidance.schemas.references import References
from sgcore_llguidance.schemas.values import Values

Schema = dict[str, Any]
MOST_DEPTH = 256
"""Of arrays and objects in the text of a schema."""
MOST_SCHEMAS = 20_000
"""Written for one document."""
HARD = frozenset(
    "not if oneOf uniqueItems contains propertyNames dependentRequired dependentSchemas unevaluatedProperties "
    "unevaluatedItems minProperties maxProperties".split()
)
"""Keywords that are written otherwise."""
SCHEMAS_BY_NAME = ("properties", "patternProperties")
SCHEMA_LISTS = ("prefixItems",)
SCHEMAS = ("items", "additionalProperties")
CONSTANTS = ("const", "enum")
IN_PLACE = ("allOf", "anyOf", "oneOf")
"""Lists of schemas for the same value."""


def checked_schema(root: Any) -> Any:
    """A schema in the words of draft 2020-12. Raises ConstraintError if it is nested too deep."""
    _check_depth(root)
    check_divisors(root)
    return modern(root)


def rewritten(root: Any) -> Schema:
    """A schema with the same meaning. Raises ConstraintError for a reference or a number that can't be followed."""
    return Rewriter(root).document()


def integer_range(root: Any) -> str | None:
    """A pattern, where all of a schema is a range of integers that floats don't hold."""
    schema = plain(root)
    if not isinstance(schema, dict) or schema.get("type") != "integer" or set(schema) - {"type", *BOUNDS}:
        return None
    low, high = integer_limits(schema)
    if low is None or high is None or low > high or max(-low, high) <= EXACT:
        return None
    return integer_pattern(low, high)


class Rewriter:
    """Rewrites one document: each schema that a reference names is written once, under `$defs`."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._references = References(root)
        self._values = Values(root, self._references)
        self._excludes_zero = has_fractions_near_zero(root)
        self._names: dict[int, str] = {}
        self._todo: list[tuple[str, Any]] = []
        self._written = 0

    def document(self) -> Schema:
        written = self.rewrite(self._root)
        if written is False:
            raise ConstraintError("the schema allows no value")
        found: Schema = {} if written is True else written
        definitions = {}
        while self._todo:
            name, target = self._todo.pop()
            definitions[name] = self.rewrite(target)
        if isinstance(self._root, dict) and "x-guidance" in self._root:
            found = {**found, "x-guidance": self._root["x-guidance"]}
        return {**found, "$defs": definitions} if definitions else found

    def rewrite(self, schema: Any, types: Types = EVERY) -> Any:
        """A schema that allows the same values, of those that have one of these types."""
        self._written += 1
        if self._written > MOST_SCHEMAS:
            raise ConstraintError(f"the schema is too large: more than {MOST_SCHEMAS:,} parts are needed for it")
        schema = plain(schema)
        if not isinstance(schema, dict):
            return schema
        if HARD & set(schema):
            values = self._values.of(schema)
            if values is not None:
                return {"enum": exact_constant(values)} if values else False
        types &= types_of(schema)
        schema = self._inside(self._without_hard(schema, types), types)
        schema = {key: exact_constant(part) if key in CONSTANTS else part for key, part in schema.items()}
        return with_exact_bounds(schema, types, self._excludes_zero) if types & NUMBERS else schema

    def _without_hard(self, schema: Schema, types: Types) -> Schema:
        """The same in keywords that the library has, as far as there are any."""
        if "unevaluatedProperties" in schema:
            with contextlib.suppress(NoForm):
                schema = plain(objects.closed(schema, self._look_up))
        if "unevaluatedItems" in schema:
            with contextlib.suppress(NoForm):
                schema = arrays.without_unevaluated(schema)
        if "propertyNames" in schema:
            with contextlib.suppress(NoForm):
                schema = objects.with_names(schema, self._values.allow)
        rest, added = dict(schema), []
        for keywords, write in self._rewritings.items():
            if keywords[0] in rest or keywords[-1] in rest:
                with contextlib.suppress(NoForm):
                    added += write(self, rest, types)
                    for keyword in keywords:
                        rest.pop(keyword, None)
        return {**rest, "allOf": [*rest.get("allOf", []), *added]} if added else rest

    def _not(self, schema: Schema, types: Types) -> list[Any]:
        negated = self._look_up(schema["not"])
        if isinstance(negated, dict):
            negated = self._without_hard(negated, EVERY)
        options = refused_by(negated, types)
        return [{"anyOf": options} if options else False]

    def _if(self, schema: Schema, types: Types) -> list[Any]:
        test = schema["if"]
        passed, failed = schema.get("then", True), schema.get("else", True)
        return [{"anyOf": [{"allOf": [test, passed]}, {"allOf": [{"not": test}, failed]}]}]

    def _one_of(self, schema: Schema, types: Types) -> list[Any]:
        """Branches that exclude each other, or that are made to."""
        parts = schema["oneOf"]
        if len(parts) == 1 or all_disjoint(map(self._look_up, parts)):
            return [{"anyOf": parts}]
        for part in parts:
            refused_by(self._look_up(part), types)
        return [{"anyOf": [{"allOf": matched} for matched in objects.alone(parts)]}]

    def _unique(self, schema: Schema, types: Types) -> list[Any]:
        if schema["uniqueItems"] is True and schema.get("maxItems", 2) > 1:
            raise NoForm("uniqueItems")
        return []

    def _counted(self, schema: Schema, types: Types) -> list[Any]:
        optional = set(schema.get("properties", ())) - set(schema.get("required", ()))
        if not optional:
            raise NoForm("minProperties and maxProperties")
        return [{"anyOf": objects.counted(schema)}]

    _rewritings: Any = {
        ("not",): _not,
        ("if", "then", "else"): _if,
        ("oneOf",): _one_of,
        ("uniqueItems",): _unique,
        ("contains", "minContains", "maxContains"): lambda self, schema, types: [arrays.containing(schema)],
        ("dependentRequired", "dependentSchemas"): lambda self, schema, types: objects.dependent(schema),
        ("minProperties", "maxProperties"): _counted,
    }

    def _inside(self, schema: Schema, types: Types) -> Schema:
        """The schema with the schemas inside of it rewritten."""
        for key in SCHEMAS_BY_NAME:
            if isinstance(schema.get(key), dict):
                schema = {**schema, key: {name: self.rewrite(part) for name, part in schema[key].items()}}
        for key in SCHEMA_LISTS:
            if isinstance(schema.get(key), list):
                schema = {**schema, key: [self.rewrite(part) for part in schema[key]]}
        for key in SCHEMAS:
            if isinstance(schema.get(key), dict):
                schema = {**schema, key: self.rewrite(schema[key])}
        for key in IN_PLACE:
            if isinstance(schema.get(key), list):
                schema = {**schema, key: [self.rewrite(part, types) for part in schema[key]]}
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            if key in schema:
                target = self._references.find(schema[key])
                schema = {**{name: value for name, value in schema.items() if name != key}, "$ref": self._name(target)}
        return schema

    def _name(self, target: Any) -> str:
        """A reference to a schema, which will be written under `$defs`."""
        if id(target) not in self._names:
            self._names[id(target)] = name = str(len(self._names))
            self._todo.append((name, target))
        return f"#/$defs/{self._names[id(target)]}"

    def _look_up(self, schema: Any) -> Any:
        """A schema in plain keywords, with what its reference names in the reference's place."""
        for _ in range(MOST_DEPTH):
            schema = plain(schema)
            if not isinstance(schema, dict) or "$ref" not in schema:
                return schema
            target = self._references.find(schema["$ref"])
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**rest, "allOf": [*rest.get("allOf", []), target]} if rest else target
        raise ConstraintError("a $ref of the schema leads back to itself")


def _check_depth(root: Any) -> None:
    level, depth = [root], 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise ConstraintError(f"the schema is nested deeper than {MOST_DEPTH} levels")
        inner = [part for part in level if isinstance(part, dict | list)]
        level = [value for part in inner for value in (part.values() if isinstance(part, dict) else part)]
