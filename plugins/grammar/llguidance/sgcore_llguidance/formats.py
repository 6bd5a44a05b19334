"""Structural tags as they are sent: the formats of xgrammar, SGLang and vLLM, and SGLang's older form."""

from __future__ import annotations

from typing import Any

import msgspec

from sgcore.errors import ConstraintError

MOST_FORMATS = 1024
KNOWN = (
    "any_text, const_string, grammar, json_schema, optional, or, plus, regex, repeat, sequence, star, tag, "
    "tags_with_separator, triggered_tags"
)


class Format(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    """A part of a structural tag."""


class ConstString(Format, tag="const_string"):
    """Exactly this text."""

    value: str


class JsonSchema(Format, tag="json_schema"):
    """JSON that a schema allows."""

    json_schema: dict[str, Any] | bool
    style: str = "json"


class AnyText(Format, tag="any_text"):
    """Text without some texts, and without what ends the tag it stands in."""

    excludes: list[str] = []


class Grammar(Format, tag="grammar"):
    """A text of a grammar in GBNF or Lark."""

    grammar: str


class Regex(Format, tag="regex"):
    """A text that a pattern matches as a whole."""

    pattern: str


class Sequence(Format, tag="sequence"):
    """One after the other."""

    elements: list[AnyFormat]


class Or(Format, tag="or"):
    """One of them."""

    elements: list[AnyFormat]


class Tag(Format, tag="tag"):
    """Content between a begin and an end, or one of several ends."""

    begin: str
    content: AnyFormat
    end: str | list[str]

    @property
    def ends(self) -> list[str]:
        return [self.end] if isinstance(self.end, str) else self.end


class TriggeredTags(Format, tag="triggered_tags"):
    """Free text in which a trigger, with which a tag begins, begins the tag."""

    triggers: list[str]
    tags: list[Tag]
    at_least_one: bool = False
    """The output begins with a tag."""
    stop_after_first: bool = False
    excludes: list[str] = []


class TagsWithSeparator(Format, tag="tags_with_separator"):
    """Tags and nothing else, with a text between each two."""

    tags: list[Tag]
    separator: str
    at_least_one: bool = False
    stop_after_first: bool = False


class Optional(Format, tag="optional"):
    """Once or not at all."""

    content: AnyFormat


class Star(Format, tag="star"):
    """Any number of times."""

    content: AnyFormat


class Plus(Format, tag="plus"):
    """Once and more."""

    content: AnyFormat


class Repeat(Format, tag="repeat"):
    """From `min` to `max` times; -1: any number."""

    min: int
    max: int
    content: AnyFormat


AnyFormat = (
    ConstString
    | JsonSchema
    | AnyText
    | Grammar
    | Regex
    | Sequence
    | Or
    | Tag
    | TriggeredTags
    | TagsWithSeparator
    | Optional
    | Star
    | Plus
    | Repeat
)


class Structure(msgspec.Struct):
    """A tag of the older form: what it begins with, what stands inside, what it ends with."""

    begin: str
    end: str
    schema: dict[str, Any] | bool = True


class StructuralTag(msgspec.Struct):
    """Either form: `format`, or `structures` and `triggers`."""

    format: AnyFormat | None = None
    structures: list[Structure] = []
    triggers: list[str] = []


def read_format(text: str) -> AnyFormat:
    """The format that a structural tag asks for. Raises ConstraintError for one that isn't known."""
    try:
        sent = msgspec.json.decode(text, type=StructuralTag)
    except msgspec.ValidationError as error:
        raise ConstraintError(f"structural_tag: {error} (types of format: {KNOWN})") from error
    if sent.format is not None and not sent.structures:
        return sent.format
    if sent.format is not None or not sent.structures:
        raise ConstraintError("structural_tag needs format, or structures and triggers")
    tags = [Tag(one.begin, JsonSchema(one.schema), one.end) for one in sent.structures]
    return TriggeredTags(sent.triggers, tags)
