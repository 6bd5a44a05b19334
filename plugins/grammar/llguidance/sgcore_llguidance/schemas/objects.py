"""Keywords of objects that the library doesn't have, in those it has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from sgcore_llguidance.schemas.drafts import FREE
from sgcore_llguidance.schemas.kinds import all_disjoint
from sgcore_llguidance.schemas.negation import ANY_CHARACTER, NoForm

Schema = dict[str, Any]
MOST_OPTIONAL = 5
MOST_BRANCHES = 32


def dependent(schema: Schema) -> list[Any]:
    """`dependentRequired` and `dependentSchemas`: the property is missing, or the rest holds."""
    required = {name: {"required": list(names)} for name, names in schema.get("dependentRequired", {}).items()}
    parts = [*required.items(), *schema.get("dependentSchemas", {}).items()]
    return [
        {"anyOf": [{"properties": {name: False}}, {"allOf": [{"required": [name]}, part]}, _no_objects()]}
        for name, part in parts
    ]


def _no_objects() -> Schema:
    return {"type": ["null", "boolean", "number", "string", "array"]}


def with_names(schema: Schema, allows: Callable[[Any, str], bool]) -> Schema:
    """The schema without `propertyNames`; `allows(names, name)` tells whether a name is one. Raises NoForm."""
    names = schema["propertyNames"]
    rest = {key: value for key, value in schema.items() if key != "propertyNames"}
    known = rest.get("properties", {})
    if names is False:
        return {**rest, "allOf": [*rest.get("allOf", []), {"maxProperties": 0}]}
    properties = {name: part if allows(names, name) else False for name, part in known.items()}
    others = rest.get("additionalProperties", True)
    if others is False and "patternProperties" not in rest:
        return {**rest, "properties": properties}
    if "patternProperties" in rest or not isinstance(names, dict):
        raise NoForm("propertyNames")
    listed = [names["const"]] if "const" in names else names.get("enum")
    if isinstance(listed, list):
        texts = [name for name in listed if isinstance(name, str) and name not in known and allows(names, name)]
        return {**rest, "properties": properties | dict.fromkeys(texts, others), "additionalProperties": False}
    if properties and others not in FREE:
        raise NoForm("propertyNames")
    patterns = {_name_pattern(names): others}
    return {**rest, "properties": properties, "patternProperties": patterns, "additionalProperties": False}


def _name_pattern(names: Schema) -> str:
    kept = {key: value for key, value in names.items() if key != "type"}
    if set(kept) == {"pattern"}:
        return str(kept["pattern"])
    if kept and set(kept) <= {"minLength", "maxLength"}:
        return f"^{ANY_CHARACTER}{{{kept.get('minLength', 0)},{kept.get('maxLength', '')}}}$"
    raise NoForm("propertyNames")


def counted(schema: Schema) -> list[Any]:
    """Sets of properties that a closed object has by `minProperties` and `maxProperties`. Raises NoForm."""
    properties, required = schema.get("properties", {}), set(schema.get("required", ()))
    optional = [name for name in properties if name not in required]
    if schema.get("additionalProperties") is not False or "patternProperties" in schema:
        raise NoForm("minProperties and maxProperties")
    if len(optional) > MOST_OPTIONAL:
        raise NoForm("minProperties and maxProperties")
    low, high = schema.get("minProperties", 0), schema.get("maxProperties", len(properties))
    subsets = itertools.chain.from_iterable(
        itertools.combinations(optional, count) for count in range(len(optional) + 1)
    )
    return [
        {"required": list(subset), "properties": {name: False for name in optional if name not in subset}}
        for subset in subsets
        if low <= len(required) + len(subset) <= high
    ]


Resolve = Callable[[Any], Any]


def closed(schema: Schema, resolve: Resolve) -> Schema:
    """The schema without `unevaluatedProperties`. Raises NoForm.

    `resolve` gives a schema in plain keywords, references looked up.
    """
    unevaluated = schema["unevaluatedProperties"]
    rest = {key: value for key, value in schema.items() if key != "unevaluatedProperties"}
    if "additionalProperties" in rest:
        return rest
    if not {"allOf", "anyOf", "oneOf", "if", "$ref", "dependentSchemas"} & set(rest):
        return {**rest, "additionalProperties": unevaluated}
    branches = list(itertools.islice(_branches(rest, resolve, 8), MOST_BRANCHES + 1))
    if len(branches) > MOST_BRANCHES:
        raise NoForm("unevaluatedProperties")
    options = [
        {
            "allOf": parts,
            "properties": dict.fromkeys(names, True),
            "patternProperties": dict.fromkeys(patterns, True),
            "additionalProperties": unevaluated,
        }
        for parts, names, patterns in map(_evaluated, branches)
    ]
    return options[0] if len(options) == 1 else {"anyOf": options}


def _evaluated(parts: list[Schema]) -> tuple[list[Schema], set[str], set[str]]:
    if any("additionalProperties" in part or "unevaluatedProperties" in part for part in parts):
        raise NoForm("unevaluatedProperties")
    names = set().union(*(part.get("properties", {}) for part in parts))
    patterns = set().union(*(part.get("patternProperties", {}) for part in parts))
    return parts, names, patterns


def _branches(schema: Any, resolve: Resolve, depth: int) -> Iterator[list[Schema]]:
    """Ways in which a value may match: of each, the schemas that it then matches all of."""
    schema = resolve(schema)
    if schema is False:
        return
    if not isinstance(schema, dict) or not depth:
        if not depth:
            raise NoForm("unevaluatedProperties")
        yield []
        return
    applied = ("allOf", "anyOf", "oneOf", "if", "then", "else", "$ref", "dependentSchemas")
    own = {key: value for key, value in schema.items() if key not in applied}
    if "dependentSchemas" in schema or "$ref" in schema:
        raise NoForm("unevaluatedProperties")
    ways: list[list[list[Any]]] = [[[part]] for part in schema.get("allOf", ())]
    if "anyOf" in schema:
        ways.append(_subsets(schema["anyOf"], resolve))
    if "oneOf" in schema:
        ways.append(_exactly_one(schema["oneOf"], resolve))
    if "if" in schema:
        test = schema["if"]
        ways.append([[test, schema.get("then", True)], [{"not": test}, schema.get("else", True)]])
    for chosen in itertools.product(*ways):
        parts = list(itertools.chain.from_iterable(chosen))
        for inner in itertools.product(*(list(_branches(part, resolve, depth - 1)) for part in parts)):
            yield [own, *itertools.chain.from_iterable(inner)]


def _subsets(parts: list[Any], resolve: Resolve) -> list[list[Any]]:
    """Branches of an `anyOf` that may hold together; what more of them evaluate is allowed too."""
    if all_disjoint(map(resolve, parts)):
        return [[part] for part in parts]
    if len(parts) > MOST_OPTIONAL:
        raise NoForm("unevaluatedProperties")
    return [list(some) for count in range(1, len(parts) + 1) for some in itertools.combinations(parts, count)]


def _exactly_one(parts: list[Any], resolve: Resolve) -> list[list[Any]]:
    if all_disjoint(map(resolve, parts)):
        return [[part] for part in parts]
    return alone(parts)


def alone(parts: list[Any]) -> list[list[Any]]:
    """For each of some schemas, what a value has to match if it matches this one and none of the others."""
    others = [parts[:place] + parts[place + 1 :] for place in range(len(parts))]
    return [[part, *({"not": other} for other in rest)] for part, rest in zip(parts, others, strict=True)]
