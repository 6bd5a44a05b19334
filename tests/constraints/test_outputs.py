"""Whatever is drawn, the output is what was asked for; and forced tokens change the number of steps alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sgcore import Engine
from sgcore.errors import RequestError
from tests.constraints.conftest import OpenEngine

SHORT = {"type": "string", "maxLength": 8}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a long key of an object": SHORT, "n": {"type": "integer"}}, "required": ["n"]},
    {"type": "array", "items": {"type": "number", "minimum": -3, "maximum": 12.5}, "minItems": 2, "maxItems": 4},
    {"enum": ["alpha", "beta", {"gamma": [1, None]}, 7]},
    {"const": {"everything": ["is", "known"]}},
    {"type": "string", "pattern": "^[a-f]{2,5}-[0-9]+x$", "maxLength": 12},
    {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"type": "integer", "minimum": 10, "maximum": 20}]},
    {
        "$defs": {"node": {"type": "object", "properties": {"v": SHORT}, "required": ["v"]}},
        "type": "array",
        "items": {"$ref": "#/$defs/node"},
        "minItems": 1,
        "maxItems": 3,
    },
    {"type": "object", "properties": {"ä ö": {"const": "ü"}}, "required": ["ä ö"], "additionalProperties": False},
    {"type": "string", "format": "date"},
    {"type": "array", "prefixItems": [{"const": 1}, SHORT], "items": False, "minItems": 2},
]
for closed in (SCHEMAS[0], SCHEMAS[6]["$defs"]["node"]):
    closed["additionalProperties"] = False
PATTERNS = ["[0-9]{4}-[0-9]{2}", "(yes|no|perhaps), (sir|madam)", "a{3,6}b?", "[äöü]{2}x{2}", "(ab|cd){1,4}"]
GRAMMAR = """root ::= item ("; " item){0,2}
item ::= "the quick " ("fox" | "dog") | [0-9] [0-9]"""
DRAWN = {"temperature": 1.0, "max_new_tokens": 300}
GREEDY = {"temperature": 0.0, "max_new_tokens": 300}


def texts(engine: Engine, params: dict[str, Any]) -> list[str]:
    replies = engine.generate("Say", params)
    for reply in replies if isinstance(replies, list) else [replies]:
        assert reply["meta_info"]["finish_reason"]["type"] == "stop", reply
    return [reply["text"] for reply in (replies if isinstance(replies, list) else [replies])]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_json_validates(engine: Engine, schema: dict[str, Any]) -> None:
    said = texts(engine, {**DRAWN, "json_schema": json.dumps(schema), "n": 6, "sampling_seed": 1})
    for text in said:
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_regex_matches_as_a_whole(engine: Engine, pattern: str) -> None:
    said = texts(engine, {**DRAWN, "regex": pattern, "n": 6, "sampling_seed": 2})
    assert all(re.fullmatch(pattern, text) for text in said), said


def test_choices_grammars_and_tags(engine: Engine) -> None:
    options = ["a first choice", "a first guess", 'q"uote\n']
    assert {*texts(engine, {**DRAWN, "choice": options, "n": 8, "sampling_seed": 3})} <= {*options}
    item = "(the quick (fox|dog)|[0-9]{2})"
    for text in texts(engine, {**DRAWN, "ebnf": GRAMMAR, "n": 4, "sampling_seed": 4}):
        assert re.fullmatch(f"{item}(; {item}){{0,2}}", text)
    lark = 'start: "x" num | "y"\nnum: /[0-9]{3}/'
    assert re.fullmatch("x[0-9]{3}|y", texts(engine, {**DRAWN, "ebnf": lark})[0])


def test_a_structural_tag_constrains_what_its_trigger_begins(engine: Engine) -> None:
    tag = {
        "type": "structural_tag",
        "structures": [{"begin": "e", "schema": {"const": "inside"}, "end": ";"}],
        "triggers": ["e"],
    }
    params = {**DRAWN, "structural_tag": json.dumps(tag), "n": 4, "sampling_seed": 5, "max_new_tokens": 120}
    replies = engine.generate("Say", params)
    assert any("e" in reply["text"] for reply in replies)
    for reply in replies:
        assert 'e"inside";' in reply["text"] or "e" not in reply["text"][:-9], reply
        rest = reply["text"].replace('e"inside";', "")
        assert "e" not in rest or 'e"inside";'.startswith(rest[rest.index("e") :]), reply


CONSTRAINTS: list[dict[str, Any]] = [
    *({"json_schema": json.dumps(schema)} for schema in SCHEMAS),
    *({"regex": pattern} for pattern in PATTERNS),
    {"ebnf": GRAMMAR},
]
LONG_KEYS = {
    "json_schema": json.dumps(
        {
            "type": "object",
            "properties": {f"the key of number {number}": {"type": "boolean"} for number in range(5)},
            "required": [f"the key of number {number}" for number in range(5)],
            "additionalProperties": False,
        }
    )
}


def ids(engine: Engine, constraints: list[dict[str, Any]], takes_forced: bool) -> list[list[int]]:
    """Log-probabilities of each token leave no room for tokens that were not sampled."""
    params = [{**GREEDY, **constraint} for constraint in constraints]
    replies = engine.generate(["Say"] * len(params), params, return_logprob=not takes_forced)
    return [reply["output_ids"] for reply in replies]


def test_forced_tokens_change_nothing_but_the_number_of_steps(engine: Engine) -> None:
    steps = []
    outputs = []
    for takes_forced in (True, False):
        before = engine.frontend.command("stats").stats.step
        outputs.append(ids(engine, [LONG_KEYS], takes_forced))
        steps.append(engine.frontend.command("stats").stats.step - before)
    assert outputs[0] == outputs[1]
    assert steps[0] < 0.8 * steps[1], steps
    assert ids(engine, CONSTRAINTS, True) == ids(engine, CONSTRAINTS, False)


def test_run_ahead_changes_nothing(open_engine: OpenEngine) -> None:
    found = [ids(open_engine(run_ahead=ahead, page_size=4), CONSTRAINTS, True) for ahead in (0, 1, 2)]
    assert found[0] == found[1] == found[2]


def test_unconstrained_rows_say_what_they_say_alone(engine: Engine) -> None:
    free = [{"temperature": 0.9, "sampling_seed": seed, "max_new_tokens": 40, "ignore_eos": True} for seed in range(4)]
    constrained = [{**DRAWN, **constraint, "sampling_seed": 9} for constraint in CONSTRAINTS[:4]]
    alone = [engine.generate("Tell me", params)["output_ids"] for params in free]
    mixed = [params for pair in zip(free, constrained, strict=True) for params in pair]
    together = engine.generate(["Tell me", "Say"] * 4, mixed)
    assert [reply["output_ids"] for reply in together[::2]] == alone
    drawn = [engine.generate("Say", params)["output_ids"] for params in mixed[1::2]]
    assert [reply["output_ids"] for reply in together[1::2]] == drawn


def test_penalties_bias_and_least_tokens(engine: Engine) -> None:
    """They count forced tokens as they count sampled ones."""
    params = {**GREEDY, "json_schema": json.dumps(SCHEMAS[0]), "frequency_penalty": 0.4, "repetition_penalty": 1.3}
    forced = engine.generate("Say", params)["output_ids"]
    assert forced == engine.generate("Say", params, return_logprob=True)["output_ids"]
    for least in (1, 5):
        reply = engine.generate("Say", {**DRAWN, "regex": "(ab|cd){0,40}", "min_new_tokens": least})
        assert len(reply["output_ids"]) >= least and re.fullmatch("(ab|cd){0,40}", reply["text"])


@pytest.mark.parametrize("most", [1, 2, 3, 5, 9])
def test_an_output_ends_at_its_limit(engine: Engine, most: int) -> None:
    constraint = {"json_schema": json.dumps(SCHEMAS[3]), "max_new_tokens": most}
    reply = engine.generate("Say", constraint)
    whole = engine.generate("Say", {**constraint, "max_new_tokens": 300})
    assert reply["output_ids"] == whole["output_ids"][:most] and len(whole["output_ids"]) > 9
    assert reply["meta_info"]["finish_reason"]["type"] == "length"
    assert reply["meta_info"]["completion_tokens"] == most


def test_stops_end_inside_of_forced_tokens(engine: Engine) -> None:
    constraint = {"json_schema": json.dumps(SCHEMAS[3]), "temperature": 0.0}
    whole = engine.generate("Say", constraint)
    token = whole["output_ids"][4]
    reply = engine.generate("Say", {**constraint, "stop_token_ids": [token]})
    assert reply["output_ids"] == whole["output_ids"][: whole["output_ids"].index(token) + 1]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": token}
    assert engine.generate("Say", {**constraint, "stop": ["known"]})["text"] == whole["text"].partition("known")[0]


def test_a_constraint_begins_after_a_sequence(engine: Engine) -> None:
    """The model is pushed to its end of thinking by a bias; from there on the pattern holds."""
    end = engine.tokenizer.encode("</think>", add_special_tokens=False)
    assert len(end) == 1
    base = {"temperature": 1.0, "regex": "[0-9]{3} apples", "constraint_after": "</think>", "max_new_tokens": 400}
    seen = 0
    for seed in range(6):
        params = {**base, "sampling_seed": seed, "logit_bias": {end[0]: 3.0}, "skip_special_tokens": False}
        reply = engine.generate("<think>", params)
        thought, mark, said = reply["text"].partition("</think>")
        if mark:
            seen += 1
            assert not re.fullmatch("[0-9]{3} apples", thought)
            assert re.fullmatch("[0-9]{3} apples", said.removesuffix("</think>")), reply
    assert seen >= 3


def test_prefix_cache_hits_change_nothing(engine: Engine) -> None:
    prompt = "A long prompt that is said twice, so that the second time it is found in the cache. " * 3
    constraint = {**GREEDY, "json_schema": json.dumps(SCHEMAS[0])}
    engine.flush_cache()
    first, again = (engine.generate(prompt, constraint) for _ in range(2))
    assert first["output_ids"] == again["output_ids"]
    assert first["meta_info"]["cached_tokens"] < 4 < again["meta_info"]["cached_tokens"]
    longer = engine.generate(prompt + first["text"], {"max_new_tokens": 1})
    assert longer["meta_info"]["cached_tokens"] >= again["meta_info"]["prompt_tokens"] - 4


def test_retraction_keeps_the_matcher(folder: Path, open_engine: OpenEngine) -> None:
    """A small pool admits more rows than can end in it, since each is expected to use only part of its limit."""
    item = {"type": "object", "properties": {"a key": SHORT}, "required": ["a key"], "additionalProperties": False}
    schema = json.dumps({"type": "array", "items": item, "minItems": 5, "maxItems": 5})
    shared = {**GREEDY, "json_schema": schema, "max_new_tokens": 95}
    params = [{**shared, "frequency_penalty": number / 10} for number in range(16)]
    prompts = [f"{number} Say" for number in range(len(params))]
    wanted = [r["output_ids"] for r in open_engine(run_ahead=0, page_size=4).generate(prompts, params)]
    for ahead in (0, 1):
        options = {"max_total_tokens": 400, "page_size": 4, "run_ahead": ahead, "threads": 1}
        with Engine(model_path=str(folder), **options) as small:
            assert [r["output_ids"] for r in small.generate(prompts, params)] == wanted
            stats = small.frontend.command("stats").stats
            assert stats.retractions_total > 0
            assert small.flush_cache()
            assert small.frontend.command("stats").stats.violations_total == 0


def test_no_tokenizer_is_a_refusal(folder: Path) -> None:
    with (
        Engine(model_path=str(folder), skip_tokenizer_init=True, max_total_tokens=256) as engine,
        pytest.raises(RequestError, match="skip-tokenizer-init"),
    ):
        engine.generate(input_ids=[5, 6], sampling_params={"regex": "a"})
