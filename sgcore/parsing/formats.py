"""From declared formats to what a parser works with. Response templates, their loader and fields are transformers'."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sgcore.api import CallMarkup, ResponseFormat
from sgcore.errors import LaunchError
from sgcore.parsing.cursor import Delimiter

REASONING = ("reasoning_content", "reasoning", "thinking")
CALLS = "tool_calls"
CONTENT = "content"
PLACEHOLDER = re.compile(r"\{([\w.]+)\}")


@dataclass(frozen=True)
class CallForm:
    """Where a call's name and arguments are, when they are JSON.

    Either both are members of an object, or the name is a named group of the opening delimiter (`capture`) and the
    region's body is the arguments.
    """

    name_key: str = ""
    arguments_key: str = ""
    capture: str = ""


@dataclass(frozen=True)
class Region:
    """One field of a response template."""

    role: str
    """`reasoning`, `calls`, `content` or `other`."""
    spec: Mapping[str, Any]
    opening: Delimiter | None
    closing: Delimiter | None
    form: CallForm | None = None
    """None: the body is no plain JSON, and is read when the region ends."""

    @cached_property
    def template(self) -> dict[str, Any]:
        """A response template of nothing but these calls."""
        return {"start_anchor": "\0", "fields": {CALLS: dict(self.spec)}}


@dataclass(frozen=True)
class Format:
    """A compiled format: `Format.of` makes one, `with_reasoning` joins two."""

    regions: tuple[Region, ...]
    anchors: tuple[Any, ...]
    """Patterns of what the assistant's turn begins with in a prompt."""
    call: CallMarkup | None

    @classmethod
    def of(cls, declared: ResponseFormat) -> Format:
        """Raises ValueError for a template that transformers refuses."""
        from transformers.utils.chat_parsing.response_templates import load_response_template

        template = load_response_template(dict(declared.template))
        specs = declared.template["fields"]
        regions = tuple(_region(name, specs[name], field) for name, field in template.fields.items())
        return cls(regions, (template.start_anchor_re,), declared.call or _derived_markup(regions))

    @property
    def has_calls(self) -> bool:
        return any(region.role == "calls" for region in self.regions)

    @property
    def has_reasoning(self) -> bool:
        return any(region.role == "reasoning" for region in self.regions)

    @property
    def discards(self) -> bool:
        """Text outside all regions isn't content: the format marks content itself."""
        contents = [region for region in self.regions if region.role == "content"]
        return bool(contents) and all(region.opening is not None for region in contents)

    def without_calls(self) -> Format:
        """The same without tool calls: they are content then."""
        return replace(self, regions=tuple(r for r in self.regions if r.role != "calls"))

    def with_listed_calls(self) -> Format:
        """The same with calls that are plain JSON objects too, alone or in a list."""
        import regex

        opening = Delimiter(regex.compile(r"(?=[\[{])"), is_final=False)
        listed = Region("calls", {}, opening, None, CallForm("name", "arguments"))
        return replace(self, regions=(*self.regions, listed))

    def with_reasoning(self, other: Format | None) -> Format:
        """This format's calls and content, the other's reasoning."""
        mine = tuple(region for region in self.regions if region.role != "reasoning")
        if other is None:
            return replace(self, regions=mine)
        theirs = tuple(region for region in other.regions if region.role == "reasoning")
        return Format(mine + theirs, self.anchors + other.anchors, self.call)

    @property
    def reasoning_end(self) -> str | None:
        """The literal that ends reasoning; None where there is none."""
        ends = [region.spec.get("close") for region in self.regions if region.role == "reasoning"]
        return next((end for end in ends if isinstance(end, str)), None)

    def turn(self, prompt: str) -> str:
        """What of the assistant's turn is in the prompt already."""
        ends = [match.end() for anchor in self.anchors for match in anchor.finditer(prompt)]
        return prompt[max(ends) :] if ends else ""

    def marks_with(self, tokens: Iterable[str]) -> bool:
        """Whether a delimiter contains one of these texts, as it is or escaped for a regular expression."""
        texts = [text for region in self.regions for text in _delimiter_texts(region.spec)]
        return any(form in text for token in tokens for form in (token, re.escape(token)) for text in texts)


def joined_format(calls: Format | None, reasoning: Format | None) -> Format | None:
    """One format of two; None of none."""
    if calls is None:
        return reasoning.without_calls() if reasoning else None
    return calls.with_reasoning(reasoning)


def compiled(declared: ResponseFormat, what: str) -> Format:
    """`Format.of` for a start: raises LaunchError that names `what`."""
    try:
        return Format.of(declared)
    except (ValueError, TypeError, KeyError) as error:
        raise LaunchError(f"{what} has a response template that transformers refuses: {error}") from error


def _region(name: str, spec: Mapping[str, Any], field: Any) -> Region:
    role = {CALLS: "calls", CONTENT: "content"}.get(name, "reasoning" if name in REASONING else "other")
    opening = _delimiter(field.open_re, field.open_literals, field.open_literal_can_extend)
    closing = _delimiter(field.close_re, field.close_literals, field.close_literal_can_extend)
    if opening is None:
        role = "content"
    return Region(role, spec, opening, closing, _call_form(spec) if role == "calls" else None)


def _delimiter(pattern: Any, literals: list[str] | None, can_extend: bool) -> Delimiter | None:
    return None if pattern is None else Delimiter(pattern, literals is not None and not can_extend)


def _call_form(spec: Mapping[str, Any]) -> CallForm | None:
    transform = spec.get("transform")
    function = transform.get("function") if isinstance(transform, Mapping) else None
    if spec.get("content") != "json" or spec.get("content_args") or function is None:
        return None
    if function == "{content}":
        return CallForm("name", "arguments")
    if not isinstance(function, Mapping) or set(function) != {"name", "arguments"}:
        return None
    name, arguments = _placeholder(function["name"]), _placeholder(function["arguments"])
    if not spec.get("transform_each"):
        if arguments == CONTENT and name and "." not in name:
            return CallForm(capture=name)
        name, arguments = _member(name), _member(arguments)
    return CallForm(name, arguments) if name and arguments and "." not in name + arguments else None


def _placeholder(text: Any) -> str:
    match = PLACEHOLDER.fullmatch(text) if isinstance(text, str) else None
    return match[1] if match else ""


def _member(path: str) -> str:
    return path.removeprefix(CONTENT + ".") if path.startswith(CONTENT + ".") else ""


def _derived_markup(regions: Iterable[Region]) -> CallMarkup | None:
    for region in regions:
        opens, closes = region.spec.get("open"), region.spec.get("close", "")
        form = region.form
        if form and form.name_key and isinstance(opens, str) and isinstance(closes, str):
            begin = f'{opens}{{"{form.name_key}": "{{name}}", "{form.arguments_key}": '
            return CallMarkup(begin, "}" + closes, opens)
    return None


def _delimiter_texts(spec: Mapping[str, Any]) -> Iterable[str]:
    for key in ("open", "open_pattern", "close", "close_pattern"):
        value = spec.get(key, ())
        yield from [value] if isinstance(value, str) else value
