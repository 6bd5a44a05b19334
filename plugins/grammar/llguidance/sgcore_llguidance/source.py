"""From a constraint to the text that llguidance compiles."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark, is_lark_syntax

from sgcore.api import Constraint
from sgcore.errors import ConstraintError
from sgcore_llguidance.schemas.rewriting import checked_schema, integer_range, rewritten
from sgcore_llguidance.tags import tags_lark

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write a value: what is known in advance is forced, and no model runs off in white space."""
JSON_PART = "%json"
MOST_GBNF_CHARS = 1 << 13
"""Translated in Python, which holds up every other thread: that much takes 30 ms."""


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
            return str(LLMatcher.grammar_from_lark(tags_lark(text, tokenizer, part_schema, part_grammar)))
    except (ValueError, RecursionError) as error:
        raise ConstraintError(f"{error}" or type(error).__name__) from error
    raise ConstraintError(f"constraints of kind {constraint.kind!r} are not supported")


def schema_grammar(text: str) -> str:
    """A grammar of the JSON that a schema allows."""
    root = checked_schema(json.loads(text))
    pattern = integer_range(root)
    if pattern is not None:
        return str(LLMatcher.grammar_from_regex(pattern))
    return str(LLMatcher.grammar_from_json_schema(rewritten(root), overrides=JSON_STYLE))  # type: ignore[arg-type]


def ebnf_lark(text: str) -> str:
    """Lark with its schemas rewritten, GBNF translated. Raises ConstraintError for one that is wrong or too long."""
    if not is_lark_syntax(text) and len(text) > MOST_GBNF_CHARS:
        raise ConstraintError(f"a GBNF grammar has at most {MOST_GBNF_CHARS:,} characters: write it in Lark")
    try:
        return _with_rewritten_schemas(str(any_to_lark(text)))
    except ConstraintError:
        raise
    except Exception as error:  # the library's own kind for a text that it can't read
        raise ConstraintError(f"the grammar can't be read: {error}") from error


def _with_rewritten_schemas(lark: str) -> str:
    """Lark whose `%json` parts are as `json_schema` would have them: the library must not see others."""
    parts = lark.split(JSON_PART)
    written = [parts[0]]
    for part in parts[1:]:
        text = part.lstrip()
        try:
            schema, end = json.JSONDecoder().raw_decode(text)
        except ValueError as error:
            raise ConstraintError(f"{JSON_PART} of a grammar must be followed by a JSON schema: {error}") from error
        written += [f"{JSON_PART} {json.dumps(rewritten(checked_schema(schema)))}", text[end:]]
    return "".join(written)


def choice_lark(options: list[str]) -> str:
    """One of some texts."""
    return "start: OPTION\nOPTION: " + " | ".join(map(json.dumps, options))


def part_schema(schema: Any) -> str:
    """A schema that stands in a grammar."""
    return json.dumps(rewritten(checked_schema(schema)) | {"x-guidance": JSON_STYLE})


def part_grammar(text: str) -> str:
    """A grammar that stands in a grammar."""
    return ebnf_lark(text).replace("%llguidance {}", "")
