"""From a constraint to the text that llguidance compiles."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark, is_lark_syntax

from sgcore.api import Constraint
from sgcore.errors import ConstraintError
from sgcore_llguidance.schemas.rewriting import integer_range, read_schema, rewritten

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write a value: what is known in advance is forced, and no model runs off in white space."""
MOST_GBNF_CHARS, MOST_STRUCTURES = 1 << 13, 256
"""Translated in Python, which holds up every other thread: that much takes 30 ms."""
ANY_TEXT = r"/(.|\n)*/"


def grammar_source(constraint: Constraint, tokenizer: LLTokenizer) -> str:
    """Raises ConstraintError for a text that is no grammar of its kind."""
    text = constraint.text
    try:
        if constraint.kind == "json_schema":
            return schema_grammar(text)
        if constraint.kind == "regex":
            return str(LLMatcher.grammar_from_regex(text))
        if constraint.kind == "ebnf":
            return str(LLMatcher.grammar_from_lark(ebnf_lark(text)))
        if constraint.kind == "choice":
            return str(LLMatcher.grammar_from_lark(choice_lark(json.loads(text))))
        if constraint.kind == "structural_tag":
            return str(LLMatcher.grammar_from_lark(tags_lark(text, tokenizer)))
    except (ValueError, RecursionError) as error:
        raise ConstraintError(f"{error}" or type(error).__name__) from error
    raise ConstraintError(f"constraints of kind {constraint.kind!r} are not supported")


def schema_grammar(text: str) -> str:
    """A grammar of the JSON that a schema allows."""
    root = read_schema(text)
    pattern = integer_range(root)
    if pattern is not None:
        return str(LLMatcher.grammar_from_regex(pattern))
    return str(LLMatcher.grammar_from_json_schema(rewritten(root), overrides=JSON_STYLE))  # type: ignore[arg-type]


def ebnf_lark(text: str) -> str:
    """Lark as it is, GBNF translated. Raises ConstraintError for a GBNF text that is wrong or too long."""
    if not is_lark_syntax(text) and len(text) > MOST_GBNF_CHARS:
        raise ConstraintError(f"a GBNF grammar has at most {MOST_GBNF_CHARS:,} characters: write it in Lark")
    try:
        return str(any_to_lark(text))
    except Exception as error:  # the library's own kind for a text that it can't read
        raise ConstraintError(f"the grammar can't be read: {error}") from error


def choice_lark(options: list[str]) -> str:
    """One of some texts."""
    return "start: OPTION\nOPTION: " + " | ".join(map(json.dumps, options))


class Structure(msgspec.Struct):
    """A tag: what it begins with, what stands inside, what it ends with."""

    begin: str
    end: str
    schema: dict[str, Any] | bool = True


class StructuralTag(msgspec.Struct):
    """SGLang's form: free text, in which a trigger begins one of the structures."""

    structures: list[Structure]
    triggers: list[str]


def tags_lark(text: str, tokenizer: LLTokenizer) -> str:
    """Free text and tags. Raises ConstraintError if a structure has no trigger."""
    try:
        tag = msgspec.json.decode(text, type=StructuralTag)
    except msgspec.ValidationError as error:
        raise ConstraintError(f"structural_tag: {error} (structures and triggers are supported)") from error
    if not 0 < len(tag.structures) <= MOST_STRUCTURES or not all(tag.triggers):
        raise ConstraintError(f"structural_tag needs 1 to {MOST_STRUCTURES} structures, and triggers that aren't empty")
    rules = [_tag_rules(f"tag_{place}", one, tag.triggers, tokenizer) for place, one in enumerate(tag.structures)]
    names = " | ".join(f"tag_{place}" for place in range(len(rules)))
    return "\n".join(["%llguidance {}", f"start: ({names})* rest", "rest: TEXT", f"TEXT: {ANY_TEXT}", *rules])


def _tag_rules(name: str, structure: Structure, triggers: list[str], tokenizer: LLTokenizer) -> str:
    trigger = next((trigger for trigger in triggers if structure.begin.startswith(trigger)), None)
    if trigger is None:
        raise ConstraintError(f"structural_tag: no trigger begins {structure.begin!r}")
    style = {"x-guidance": JSON_STYLE} | (structure.schema if isinstance(structure.schema, dict) else {})
    end = _special(structure.end, tokenizer) or _quoted(structure.end)
    parts = [_quoted(structure.begin[len(trigger) :]), f"%json {json.dumps(style)}", end]
    body = " ".join(part for part in parts if part)
    if special := _special(trigger, tokenizer):
        return f"{name}: TEXT {special} {body}"
    return f"{name}_head[lazy]: TEXT {_quoted(trigger)}\n{name}: {name}_head {body}"


def _quoted(text: str) -> str:
    return json.dumps(text) if text else ""


def _special(text: str, tokenizer: LLTokenizer) -> str:
    """A special token as a grammar writes it; empty for other texts."""
    tokens = tokenizer.tokenize_str(text, parse_special=True) if text else []
    return f"<[{tokens[0]}]>" if len(tokens) == 1 and tokenizer.is_special_token(tokens[0]) else ""
