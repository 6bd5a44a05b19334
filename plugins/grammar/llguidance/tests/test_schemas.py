"""Schemas mean to the grammar what they mean to a validator: each value is taken by both, or by neither."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from sgcore.api import Constraint, Grammar
from sgcore.errors import ConstraintError
from sgcore.testing.languages import END, VOCABULARY, make_tokenizer, takes, walk
from sgcore_llguidance.backend import LLGuidanceBackend
from sgcore_llguidance.schemas.negation import other_texts
from sgcore_llguidance.schemas.numbers import integer_pattern

SCALARS: list[Any] = [None, True, False, 0, 1, 2, 3, 5, 7, -1, 1.5, "", "a", "b", "ab", "abc", "x"]
ARRAYS: list[Any] = [list(row) for count in range(4) for row in itertools.product((0, 1, "a"), repeat=count)][:25]
OBJECTS: list[Any] = [
    {key: value for key, value in zip("abc", row, strict=True) if value != "-"}
    for row in itertools.product((1, "x", "-"), (2, "-"), (3, "-"))
]
VALUES = [*SCALARS, *ARRAYS, *OBJECTS, [1, 2], {"a": 1, "d": 4}, {"ab": 1}]


class Draw:
    """Random schemas of the keywords that are rewritten."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def leaf(self) -> Any:
        return self.chance.choice(
            [
                {"type": "integer", "minimum": 0, "maximum": self.chance.randrange(6)},
                {"type": "integer"},
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "boolean"},
                {"type": "null"},
                {"type": "string", "maxLength": self.chance.randrange(4)},
                {"type": "string", "minLength": 1},
                {"const": self.chance.choice([1, "a", None, True])},
                {"enum": self.chance.sample(["a", "b", 1, 2, None, False], 3)},
                {"type": ["string", "null"]},
                {"type": ["integer", "string"], "minimum": 1},
                True,
            ]
        )

    def array(self, depth: int) -> Any:
        schema: dict[str, Any] = {"type": "array", "items": self.schema(depth - 1)}
        if self.chance.random() < 0.4:
            schema["prefixItems"] = [self.leaf()]
        schema["maxItems"] = self.chance.randrange(1, 4)
        extra: list[dict[str, Any]] = [
            {"uniqueItems": True},
            {"contains": self.leaf()},
            {"contains": self.leaf(), "minContains": 1, "maxContains": 1},
            {"minItems": 1},
            {},
        ]
        return schema | self.chance.choice(extra)

    def object(self, depth: int) -> Any:
        names = self.chance.sample("abc", self.chance.randrange(4))
        schema: dict[str, Any] = {"type": "object", "properties": {n: self.schema(depth - 1) for n in sorted(names)}}
        schema["required"] = [name for name in names if self.chance.random() < 0.4]
        extra: list[dict[str, Any]] = [
            {"additionalProperties": False},
            {"additionalProperties": False, "dependentRequired": {"a": ["b"]}},
            {"dependentRequired": {"b": ["a"], "a": ["c"]}},
            {"additionalProperties": False, "dependentSchemas": {"a": {"required": ["c"]}}},
            {"additionalProperties": False, "minProperties": 1, "maxProperties": 2},
            {"propertyNames": {"enum": ["a", "b"]}},
            {"propertyNames": {"maxLength": 1}},
            {"unevaluatedProperties": False},
            {"unevaluatedProperties": False, "allOf": [{"properties": {"c": self.leaf()}}]},
            {
                "unevaluatedProperties": False,
                "anyOf": [{"required": ["a"]}, {"properties": {"b": {"type": "integer"}}}],
            },
            {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "additionalProperties": False},
            {"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["c"]}, "else": {"required": ["b"]}},
        ]
        return schema | self.chance.choice(extra)

    def combination(self, depth: int) -> Any:
        one, other = self.schema(depth - 1), self.schema(depth - 1)
        return self.chance.choice(
            [
                {"oneOf": [one, other]},
                {"oneOf": [self.leaf(), self.leaf(), self.leaf()]},
                {"anyOf": [one, other], "not": self.leaf()},
                {"not": {"anyOf": [self.leaf(), self.leaf()]}},
                {"if": self.leaf(), "then": one, "else": other},
                {"allOf": [one, {"not": other}]},
                {"type": "integer", "minimum": 0, "maximum": 7, "not": self.leaf()},
            ]
        )

    def schema(self, depth: int) -> Any:
        kinds: list[Callable[[int], Any]] = [self.array, self.object, self.combination, self.combination]
        return self.chance.choice(kinds)(depth) if depth > 0 and self.chance.random() < 0.8 else self.leaf()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def backend(tokenizer: Any) -> LLGuidanceBackend:
    return LLGuidanceBackend(tokenizer.to_str(), VOCABULARY, [END])


def spellings(value: Any) -> list[str]:
    """A value as JSON, with its properties in every order: a grammar wants them in one."""
    if isinstance(value, dict):
        return [json.dumps(dict(items)) for items in itertools.permutations(value.items())]
    return [json.dumps(value)]


def takes_value(grammar: Grammar, tokenizer: Any, value: Any) -> bool:
    return any(takes(grammar, tokenizer, text) for text in spellings(value))


def compiled(backend: LLGuidanceBackend, schema: Any) -> Grammar:
    return backend.compile(Constraint("json_schema", json.dumps(schema)))


@pytest.mark.parametrize("block", range(8))
def test_random_schemas_allow_what_a_validator_allows(backend: LLGuidanceBackend, tokenizer: Any, block: int) -> None:
    followed = 0
    for seed in range(60 * block, 60 * block + 60):
        schema = Draw(seed).schema(2)
        validator = jsonschema.Draft202012Validator(schema)
        try:
            grammar = compiled(backend, schema)
        except ConstraintError as error:
            assert "Unsatisfiable" not in str(error) or not any(map(validator.is_valid, VALUES)), (schema, str(error))
            continue
        followed += 1
        for value in VALUES:
            assert takes_value(grammar, tokenizer, value) == validator.is_valid(value), (schema, value)
        ids, has_ended = walk(grammar, random.Random(seed))
        text = tokenizer.decode(ids, skip_special_tokens=False)
        assert not has_ended or validator.is_valid(json.loads(text)), (schema, text)
    assert followed > 25


DRAFT_7 = "http://json-schema.org/draft-07/schema#"
FOLLOWED: list[tuple[Any, list[str], list[str]]] = [
    (True, ["1", "[]"], ["x"]),
    ({"type": "array", "minItems": 1.0, "uniqueItems": False, "maxItems": 2}, ["[1, 1]"], ["[]"]),
    ({"type": "object", "then": {"required": ["a"]}, "minContains": 2}, ["{}"], ["1"]),
    ({"type": "string", "format": "password"}, ['"a"'], ["1"]),
    ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"a"']),
    ({"not": {"enum": ["a", "ab", 1, None]}, "type": ["string", "null"]}, ['""', '"b"', '"aa"', '"abc"'], ['"ab"']),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.5", "0.25"], ["0", "-0", "0.0", "0.6"]),
    ({"type": "number", "maximum": 0.5, "not": {"maximum": 0}}, ["0.5"], ["0", "0.6"]),
    ({"type": "integer", "minimum": 2**53 + 1, "maximum": 2**53 + 3}, [f"{2**53 + 3}"], [f"{2**53}", f"{2**53 + 4}"]),
    ({"type": "integer", "exclusiveMaximum": 2**60 + 257}, [f"{2**60 + 256}"], [f"{2**60 + 257}"]),
    ({"type": "integer", "maximum": 2**63 - 1}, [f"{2**63 - 1}"], [f"{2**63}"]),
    ({"$schema": DRAFT_7, "type": "array", "items": [{"const": 1}], "additionalItems": False}, ["[1]"], ["[1, 1]"]),
    ({"$schema": DRAFT_7, "type": "integer", "minimum": 3, "exclusiveMinimum": True}, ["4"], ["3"]),
    ({"$schema": DRAFT_7, "enum": [{"a": 1}, {}], "dependencies": {"a": ["b"]}}, ["{}"], ['{"a": 1}']),
    ({"$defs": {"d": {"$anchor": "e", "type": "integer"}}, "$ref": "#e", "not": {"const": 3}}, ["4"], ["3"]),
    ({"$defs": {"d": {"$dynamicAnchor": "d", "const": 1}}, "$dynamicRef": "#d"}, ["1"], ["2"]),
    ({"$defs": {"n": {"anyOf": [{"type": "null"}, {"oneOf": [{"items": {"$ref": "#/$defs/n"}, "type": "array"}]}]}},
      "$ref": "#/$defs/n"}, ["[[null]]"], ["[1]"]),
    ({"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
      "$defs": {"a": {"properties": {"k": {"const": 1}}, "required": ["k"], "type": "object"},
                "b": {"properties": {"k": {"const": 2}}, "required": ["k"], "type": "object"}}},
     ['{"k": 2}'], ['{"k": 3}']),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), FOLLOWED, ids=lambda value: str(value)[:60])
def test_corners_of_schemas(
    backend: LLGuidanceBackend, tokenizer: Any, schema: Any, good: list[str], bad: list[str]
) -> None:
    grammar = compiled(backend, schema)
    assert [text for text in good if not takes(grammar, tokenizer, text)] == []
    assert [text for text in bad if takes(grammar, tokenizer, text)] == []


def test_a_pattern_of_integers_has_those_of_the_range() -> None:
    chance = random.Random(0)
    for _ in range(300):
        low = chance.randint(-1200, 1200)
        high = low + chance.choice([0, 1, 5, 50, 700, 2400])
        pattern = re.compile(integer_pattern(low, high))
        for number in (*range(low - 2, low + 3), *range(high - 2, high + 3), chance.randint(-3000, 3000), 0, -1, 10):
            assert bool(pattern.fullmatch(str(number))) == (low <= number <= high), (low, high, number)


def test_a_pattern_of_other_texts_has_all_but_these() -> None:
    texts = ["", "a", "ab", "b.c"]
    pattern = re.compile(other_texts(texts))
    for count in range(5):
        for text in map("".join, itertools.product("ab.c", repeat=count)):
            assert bool(pattern.search(text)) == (text not in texts), text


def loops(count: int) -> Any:
    """References and negations in each other, in every place."""
    parts = {f"d{n}": {"not": {"oneOf": [{"$ref": f"#/$defs/d{(n + 1) % count}"}] * 2}} for n in range(count)}
    return {"$defs": parts, "$ref": "#/$defs/d0"}


HOSTILE = {
    "deep": json.loads('{"not":' * 400 + "{}" + "}" * 400),
    "a loop of references": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "not": {"$ref": "#/$defs/a"}},
    "negations in a loop": loops(9),
    "doubling": {"oneOf": [{"not": {"oneOf": [{"minLength": n}, {"maxLength": n}]}} for n in range(200)]},
    "many bits": {"const": 10**4000},
    "a large product": {"type": "array", "items": {"enum": list(range(1000))}, "maxItems": 8, "uniqueItems": True},
    "a slow pattern": {"not": {"pattern": "(a+)+$"}, "enum": ["a" * 60 + "b"]},
    "keywords of other types": {"not": {"required": 3}, "type": "object"},
    "a large divisor": {"type": "integer", "multipleOf": 999_983},
    "divisors": {"allOf": [{"type": "integer", "multipleOf": 997}, {"multipleOf": 991}]},
    "a type that is no name": {"type": [{}], "format": {}, "not": {"type": 3}},
    "a list of no names": {"type": [{}], "not": {"type": "null"}},
    "no schemas": {"oneOf": 3},
    "names that are no names": {"propertyNames": {"enum": 3}, "properties": [], "required": {}},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_refused_or_followed(backend: LLGuidanceBackend, name: str) -> None:
    try:
        compiled(backend, HOSTILE[name])
    except ConstraintError as error:
        assert 0 < len(str(error)) < 1200
