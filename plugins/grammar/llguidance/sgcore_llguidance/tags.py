"""From a structural tag to the text of a grammar.

What is regular becomes one terminal of the lexer, which is greedy: text that may be anything has to come last, or in a
tag with an end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence

from llguidance import LLTokenizer

from sgcore.errors import ConstraintError
from sgcore_llguidance.formats import (
    MOST_FORMATS,
    AnyFormat,
    AnyText,
    ConstString,
    Grammar,
    JsonSchema,
    Optional,
    Or,
    Plus,
    Regex,
    Repeat,
    Star,
    Tag,
    TagsWithSeparator,
    TriggeredTags,
    read_format,
)
from sgcore_llguidance.formats import Sequence as Elements

ANY = r"/(.|\n)*/"


def tags_lark(
    text: str, tokenizer: LLTokenizer, schema: Callable[[dict[str, object] | bool], str], grammar: Callable[[str], str]
) -> str:
    """A structural tag as Lark; `schema` and `grammar` write those of a part. Raises ConstraintError."""
    writer = Writer(tokenizer, schema, grammar)
    start = writer.rule(read_format(text), ())
    return "\n".join(["%llguidance {}", f"start: {start}", *writer.rules])


class Writer:
    """Writes the rules of one grammar."""

    def __init__(
        self,
        tokenizer: LLTokenizer,
        schema: Callable[[dict[str, object] | bool], str],
        grammar: Callable[[str], str],
    ) -> None:
        self.rules: list[str] = []
        self._tokenizer, self._schema, self._grammar = tokenizer, schema, grammar
        self._written = 0

    def rule(self, part: AnyFormat, ends: Sequence[str]) -> str:
        """What stands for a part in a rule; `ends` are those of the tag that it stands in."""
        self._written += 1
        if self._written > MOST_FORMATS:
            raise ConstraintError(f"a structural_tag has at most {MOST_FORMATS:,} formats")
        regular = self._regular(part, ends)
        if regular is not None:
            return self._named(regular, is_terminal=True)
        if isinstance(part, ConstString):
            return self._special(part.value)
        if isinstance(part, JsonSchema):
            if part.style != "json":
                raise ConstraintError(f"structural_tag: style {part.style[:64]!r} of a json_schema is not supported")
            return f"%json {self._schema(part.json_schema)}"
        if isinstance(part, Grammar):
            return f"%lark {{\n{self._grammar(part.grammar)}\n}}"
        if isinstance(part, Tag):
            return self._tag([ConstString(part.begin)], part)
        if isinstance(part, Elements):
            return self._elements(part.elements, ends)
        if isinstance(part, Or):
            return "(" + " | ".join(self.rule(one, ends) for one in part.elements) + ")"
        if isinstance(part, TriggeredTags):
            return self._triggered(part)
        if isinstance(part, TagsWithSeparator):
            return self._separated(part)
        assert isinstance(part, Optional | Star | Plus | Repeat)
        return f"({self.rule(part.content, ends)}){_times(part)}"

    def _regular(self, part: AnyFormat, ends: Sequence[str]) -> str | None:
        """A part in a terminal; None where it is not regular, or has tokens that aren't text."""
        if isinstance(part, ConstString):
            return None if self._special(part.value) else json.dumps(part.value)
        if isinstance(part, Regex):
            return "/" + re.sub(r"\\.|/|\n", _in_slashes, part.pattern, flags=re.DOTALL) + "/"
        if isinstance(part, AnyText):
            return _text([*part.excludes, *ends])
        if isinstance(part, Tag):
            inner = [ConstString(part.begin), part.content, _one_of(part.ends)]
            return self._joined(inner, part.ends, " ")
        if isinstance(part, Elements):
            return self._joined(part.elements, ends, " ")
        if isinstance(part, Or):
            return self._joined(part.elements, ends, " | ")
        if isinstance(part, Optional | Star | Plus | Repeat):
            inner_text = self._regular(part.content, ends)
            return None if inner_text is None else f"({inner_text}){_times(part)}"
        return None

    def _joined(self, parts: Iterable[AnyFormat], ends: Sequence[str], between: str) -> str | None:
        texts = [self._regular(part, ends) for part in parts]
        known = [text for text in texts if text is not None]
        if len(known) < len(texts) or not texts:
            return None
        return f"({between.join(known)})"

    def _elements(self, parts: Sequence[AnyFormat], ends: Sequence[str]) -> str:
        """Neighbours that are regular become one terminal, in which nothing is greedy."""
        self._check_order(parts, ends)
        return self._in_order(parts, ends)

    def _tag(self, begin: list[AnyFormat], tag: Tag) -> str:
        parts = [*begin, tag.content, _one_of(tag.ends)]
        is_free = isinstance(tag.content, AnyText) and all(tag.ends)
        return self._in_order(parts, tag.ends) if is_free else self._elements(parts, tag.ends)

    def _check_order(self, parts: Sequence[AnyFormat], ends: Sequence[str]) -> None:
        for place, part in enumerate(parts[:-1]):
            is_regular = [self._regular(one, ends) is not None for one in parts[place:]]
            if _is_open(part) and not all(is_regular):
                raise ConstraintError(f"structural_tag: {_name(part)} with free text has to end its sequence")
            if isinstance(part, Regex) and not is_regular[1]:
                following = _name(parts[place + 1])
                raise ConstraintError(f"structural_tag: a regex directly before {following}: put a text between them")

    def _in_order(self, parts: Sequence[AnyFormat], ends: Sequence[str]) -> str:
        written: list[str] = []
        run: list[str] = []
        for part in parts:
            regular = self._regular(part, ends)
            if regular is not None:
                run.append(regular)
                continue
            written += [self._named(" ".join(run), is_terminal=True)] if run else []
            run = []
            written.append(self.rule(part, ends))
        written += [self._named(" ".join(run), is_terminal=True)] if run else []
        return self._named(" ".join(written))

    def _triggered(self, part: TriggeredTags) -> str:
        if not part.tags or not all(part.triggers):
            raise ConstraintError("structural_tag: triggered_tags needs tags, and triggers that aren't empty")
        text = self._named(_text(part.excludes), is_terminal=True)
        tags = [self._triggered_tag(tag, part.triggers, text) for tag in part.tags]
        dispatched = f"({' | '.join(tags)})"
        first = f"({' | '.join(self.rule(tag, ()) for tag in part.tags)})" if part.at_least_one else ""
        if part.stop_after_first:
            return first or f"({dispatched} | {text})"
        return f"{first} {dispatched}* {text}"

    def _triggered_tag(self, tag: Tag, triggers: list[str], text: str) -> str:
        """Text up to the trigger, and the tag."""
        trigger = next((trigger for trigger in triggers if tag.begin.startswith(trigger)), None)
        if trigger is None:
            raise ConstraintError(f"structural_tag: no trigger begins {tag.begin!r}")
        rest = tag.begin[len(trigger) :]
        body = self._tag([ConstString(rest)] if rest else [], tag)
        if special := self._special(trigger):
            return self._named(f"{text} {special} {body}")
        head = self._named(f"{text} {json.dumps(trigger)}", lazy=True)
        return self._named(f"{head} {body}")

    def _separated(self, part: TagsWithSeparator) -> str:
        if not part.tags:
            raise ConstraintError("structural_tag: tags_with_separator needs tags")
        tags = self._named("(" + " | ".join(self.rule(tag, ()) for tag in part.tags) + ")")
        between = self._special(part.separator) or json.dumps(part.separator)
        found = tags if part.stop_after_first else f"{tags} ({between} {tags})*"
        return f"({found})" if part.at_least_one else f"({found})?"

    def _named(self, body: str, is_terminal: bool = False, lazy: bool = False) -> str:
        number = len(self.rules)
        name = f"T{number}" if is_terminal else f"r{number}"
        self.rules.append(f"{name}{'[lazy]' if lazy else ''}: {body}")
        return name

    def _special(self, text: str) -> str:
        """A special token as a grammar writes it; empty for other texts."""
        tokens = self._tokenizer.tokenize_str(text, parse_special=True) if text else []
        return f"<[{tokens[0]}]>" if len(tokens) == 1 and self._tokenizer.is_special_token(tokens[0]) else ""


def _one_of(texts: list[str]) -> AnyFormat:
    if not texts:
        raise ConstraintError("structural_tag: a tag needs an end, which may be empty")
    return ConstString(texts[0]) if len(texts) == 1 else Or([ConstString(text) for text in texts])


def _is_open(part: AnyFormat) -> bool:
    """Whether a part has text that nothing ends."""
    if isinstance(part, Elements | Or):
        return any(map(_is_open, part.elements))
    if isinstance(part, Optional | Star | Plus | Repeat):
        return _is_open(part.content)
    return isinstance(part, AnyText | TriggeredTags)


def _text(excluded: Iterable[str]) -> str:
    """Any text that contains none of these."""
    without = [f"~({ANY} {json.dumps(text)} {ANY})" for text in excluded if text]
    return f"({' & '.join([ANY, *without])})"


def _times(part: Optional | Star | Plus | Repeat) -> str:
    if not isinstance(part, Repeat):
        return {Optional: "?", Star: "*", Plus: "+"}[type(part)]
    if not 0 <= part.min <= MOST_FORMATS or not (part.max == -1 or part.min <= part.max <= MOST_FORMATS):
        raise ConstraintError(f"structural_tag: repeat needs min from 0, and max from min to {MOST_FORMATS:,} or -1")
    return f"{{{part.min},{'' if part.max < 0 else part.max}}}"


def _in_slashes(found: re.Match[str]) -> str:
    return {"/": r"\/", "\n": r"\n"}.get(found[0], found[0])


def _name(part: AnyFormat) -> str:
    return str(part.__struct_config__.tag)
