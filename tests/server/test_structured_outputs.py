"""Constraints of the OpenAI routes, by all the names that their clients have for them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sgcore.errors import RequestError
from sgcore.server.openai import field_names, sampling_of
from sgcore.server.protocol import CompletionRequest

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "triggered_tags", "triggers": ["<"], "tags": []}
TAG = {"type": "structural_tag", "format": FORMAT}
SAME: list[tuple[dict[str, Any], str, Any]] = [
    ({"json": SCHEMA}, "json_schema", SCHEMA),
    ({"json": json.dumps(SCHEMA), "disable_any_whitespace": True}, "json_schema", SCHEMA),
    ({"json": False}, "json_schema", False),
    ({"json_object": True}, "json_schema", {"type": "object"}),
    ({"regex": "[0-9]+", "json_object": False}, "regex", "[0-9]+"),
    ({"choice": ["a", "b"]}, "choice", ("a", "b")),
    ({"grammar": 'root ::= "a"'}, "ebnf", 'root ::= "a"'),
    ({"structural_tag": json.dumps(TAG)}, "structural_tag", TAG),
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "holds one of json, json_object, regex, .* got none of them"),
    ({"regex": "a", "choice": ["a"]}, "got regex and choice"),
    ({"json": {}, "whitespace_pattern": " *"}, "whitespace_pattern is not supported"),
    ({"json": {}, "disable_additional_properties": True}, "disable_additional_properties is not supported"),
]


def body_of(**fields: Any) -> CompletionRequest:
    return msgspec.json.decode(json.dumps({"prompt": "a"} | fields), type=CompletionRequest)


@pytest.mark.parametrize(("sent", "name", "value"), SAME, ids=lambda value: json.dumps(value)[:40])
def test_structured_outputs_are_sampling_parameters(sent: dict[str, Any], name: str, value: Any) -> None:
    constraint = getattr(sampling_of(body_of(structured_outputs=sent), 1, {}), name)
    assert (json.loads(constraint) if name in ("json_schema", "structural_tag") else constraint) == value


@pytest.mark.parametrize(("sent", "message"), REFUSED, ids=lambda value: json.dumps(value)[:40])
def test_structured_outputs_hold_one_constraint(sent: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        sampling_of(body_of(structured_outputs=sent), 1, {})
    assert caught.value.param == "structured_outputs"


@pytest.mark.parametrize("other", [{"regex": "a"}, {"response_format": {"type": "json_object"}}], ids=str)
def test_two_constraints_exclude_each_other(other: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="exclude each other"):
        sampling_of(body_of(structured_outputs={"regex": "b"}, **other), 1, {})


def test_errors_name_the_field_that_was_sent() -> None:
    assert (
        field_names(body_of(structured_outputs={"regex": "a"}), "prompt", "logprobs")["regex"] == "structured_outputs"
    )


def test_a_response_format_may_be_a_structural_tag_with_a_format() -> None:
    sampling = sampling_of(body_of(response_format=TAG), 1, {})
    assert sampling.structural_tag is not None and json.loads(sampling.structural_tag) == TAG
