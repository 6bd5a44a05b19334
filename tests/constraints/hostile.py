"""Constraints that were made to hurt, by name."""

from __future__ import annotations

import json
from typing import Any


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _doubling(word: str, count: int) -> dict[str, Any]:
    """Each definition uses the next one twice."""
    defs: dict[str, Any] = {
        f"a{i}": {word: [{"$ref": f"#/$defs/a{i + 1}"}] * 2, "type": "object", "properties": {f"p{i}": {}}}
        for i in range(count)
    }
    return {"$ref": "#/$defs/a0", "$defs": {**defs, f"a{count}": {"type": "object"}}}


def _schema(value: Any) -> dict[str, str]:
    return {"json_schema": json.dumps(value)}


def _rules(count: int, rule: str) -> str:
    return "".join("\n" + rule.format(i) for i in range(count))


_LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
_PROPERTIES = {f"k{i}": {"enum": [f"v{i}_{j}" for j in range(10)]} for i in range(6000)}

HOSTILE: dict[str, dict[str, Any]] = {
    "nested quantifiers": {"regex": "(a+)+$"},
    "repetition": {"regex": "a{1,100000}"},
    "repeated repetition": {"regex": "(a{1,1000}){1,1000}"},
    "overlap": {"regex": "(.*a){100}"},
    "wide overlap": {"regex": "(.*a.{20}b){10}"},
    "many states": {"regex": "(.*a){25}.{40}"},
    "back-reference": {"regex": r"(a)\1"},
    "look-ahead": {"regex": "(?=a)b"},
    "deep groups": {"regex": "(" * 5000 + "a" + ")" * 5000},
    "alternation": {"regex": "|".join(f"v{i}" for i in range(16_000))},
    "1 MB schema": _schema({"type": "object", "properties": {**_PROPERTIES, "x" * 300_000: {}}}),
    "120 kB schema": _schema({"type": "object", "properties": dict(list(_PROPERTIES.items())[:800])}),
    "120 kB enumeration": _schema({"enum": [f"v{i}" for i in range(12_000)]}),
    "120 kB pattern": _schema({"type": "string", "pattern": "a" * 120_000}),
    "deep schema": _schema(_nested(300)),
    "deeper text": {"json_schema": '{"items":' * 20_000 + "{}" + "}" * 20_000},
    "reference loop": _schema(_LOOP),
    "reference to itself": _schema({"$ref": "#"}),
    "loop through allOf": _schema({"allOf": [{"$ref": "#"}]}),
    "doubling allOf": _schema(_doubling("allOf", 24)),
    "doubling anyOf": _schema(_doubling("anyOf", 24)),
    "long array": _schema({"type": "array", "items": {"type": "integer"}, "minItems": 100_000, "maxItems": 1_000_000}),
    "long string": _schema({"type": "string", "minLength": 100_000, "maxLength": 1_000_000}),
    "tiny divisor": _schema({"type": "number", "multipleOf": 1e-9}),
    "large numbers": {"json_schema": '{"type": "integer", "minimum": -1' + "0" * 400 + "}"},
    "many rules": {"ebnf": "start:" + "".join(f" r{i}" for i in range(5000)) + _rules(5000, 'r{0}: "x{0}"')},
    "left recursion": {"ebnf": 'start: start start | "a" |'},
    "doubling rules": {"ebnf": "start: A0" + "".join(f"\nA{i}: A{i + 1} A{i + 1}" for i in range(30)) + '\nA30: "a"'},
    "ambiguous": {"ebnf": 'start: x\nx: x x x | "a" | "aa" | "aaa" | x x'},
    "deep parentheses": {"ebnf": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
    "deep GBNF": {"ebnf": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000},
    "long GBNF": {"ebnf": "root ::=" + "".join(f" r{i}" for i in range(300)) + _rules(300, 'r{0} ::= "x" [a-z]+')},
    "longer GBNF": {"ebnf": "root ::=" + "".join(f" r{i}" for i in range(3000)) + _rules(3000, 'r{0} ::= "x"')},
    "product": {"ebnf": "start: A\nA: /(.*a){12}/ & ~/.*b.{12}/ & /(.|\\n){0,500}/"},
    "many choices": {"choice": [f"{i} " * 100 for i in range(600)]},
    "many tags": {
        "structural_tag": json.dumps(
            {"structures": [{"begin": f"<{i}>", "end": "</>", "schema": {}} for i in range(2000)], "triggers": ["<"]}
        )
    },
}  # fmt: skip
