"""Behaviour that no format of ours shows; the formats' own tests are the suite in `sgcore.testing.formats`."""

from __future__ import annotations

import json
import time
from typing import Any

from sgcore.api import ResponseFormat
from sgcore.parsing.cursor import FORGOTTEN_CHARS
from sgcore.parsing.formats import Format
from sgcore.parsing.parser import Parser
from sgcore.testing.formats import TOOLS, Read, read, split

CALL = {
    "open": "<c>",
    "close": "</c>",
    "repeats": True,
    "content": "json",
    "transform": {"type": "function", "function": "{content}"},
}


def format_of(**fields: Any) -> Format:
    return Format.of(ResponseFormat({"start_anchor": "<a>", "fields": fields}))


PLAIN = format_of(tool_calls=CALL)


def both_ways(format: Format, text: str, turn: str = "") -> Read:
    whole = read(format, [text], turn)
    for seed in range(30):
        assert read(format, split(text, seed), turn) == whole
    return whole


def test_broken_arguments_belong_to_the_call_that_has_begun() -> None:
    assert both_ways(PLAIN, '<c>{"name": "now", "arguments": {\'a\': 1}}</c>b') == Read(
        "b", calls=[("now", "{'a': 1}}")]
    )


def test_missing_and_surplus_brackets_do_no_harm() -> None:
    assert both_ways(PLAIN, '<c>{"name": "now", "arguments": {}</c>b') == Read("b", calls=[("now", "{}")])
    assert both_ways(PLAIN, '<c>{"name": "now", "arguments": {}}}</c>b') == Read("}</c>b", calls=[("now", "{}")])


def test_arguments_as_a_string_as_null_and_left_out() -> None:
    quoted = json.dumps({"name": "now", "arguments": json.dumps({"a": "é\n"})})
    assert both_ways(PLAIN, f"<c>{quoted}</c>").calls == [("now", '{"a": "\\u00e9\\n"}')]
    assert both_ways(PLAIN, '<c>{"name": "now", "arguments": null}</c>').calls == [("now", "{}")]
    assert both_ways(PLAIN, '<c>{"name": "now"}</c>').calls == [("now", "{}")]
    assert both_ways(PLAIN, '<c>{"name": "now", "parameters": {"a": 1}}</c>').calls == [("now", '{"a": 1}')]


def test_half_a_surrogate_pair_makes_it_content() -> None:
    text = '<c>{"name": "now", "arguments": "\\ud83d"}</c>'
    assert both_ways(PLAIN, text) == Read(text)


def test_white_space_stays_where_no_markup_is() -> None:
    assert both_ways(PLAIN, "  a \n b\n\n") == Read("  a \n b\n\n")
    call = '<c>{"name": "now"}</c>'
    assert both_ways(PLAIN, f" a \n{call}\n\n{call}\n b \n") == Read(" ab \n", calls=[("now", "{}")] * 2)


def test_content_that_is_marked_itself() -> None:
    format = format_of(content={"open": "<final>", "close": "</final>"}, tool_calls=CALL)
    assert both_ways(format, 'junk<final>Hi <c></final>junk<c>{"name": "now"}</c>') == Read(
        "Hi <c>", calls=[("now", "{}")]
    )


def test_regions_that_nobody_knows_are_content() -> None:
    format = format_of(citations={"open": "<cite>", "close": "</cite>"})
    assert both_ways(format, "a <cite>b</cite> c <cite>d") == Read("a <cite>b</cite> c <cite>d")


def test_text_of_the_prompt_is_not_given_again() -> None:
    format = format_of(thinking={"open": "<think>", "close": "</think>"})
    assert both_ways(format, "b</think>c", "<think>a ") == Read("c", "b")
    assert both_ways(format, "think>b</think>c", "a<") == Read("c", "b")
    call = '<c>{"name": "now", "arguments": {"a": 1}}</c>'
    for place in range(3, len(call) - 4):
        assert both_ways(PLAIN, call[place:] + call, call + call[:place]).calls == [("now", '{"a": 1}')] * 2
    assert Parser(format, "<think>").is_reasoning and not Parser(format, "<think></think>").is_reasoning


def test_long_answers_are_forgotten_and_read_in_linear_time() -> None:
    text = "word " * 40_000
    parser = Parser(PLAIN, "", TOOLS)
    began = time.perf_counter()
    pieces = [piece for start in range(0, len(text), 4) for piece in parser.feed(text[start : start + 4])]
    spent = time.perf_counter() - began
    assert "".join(piece.text for piece in pieces + parser.finish()) == text
    assert len(parser._cursor.text) <= FORGOTTEN_CHARS + 100
    assert spent < 10, "50,000 pieces"


def test_long_arguments_are_forgotten_too() -> None:
    parser = Parser(PLAIN, "", TOOLS)
    parser.feed('<c>{"name": "now", "arguments": {"a": "')
    for _ in range(5_000):
        parser.feed("xxxx")
    assert len(parser._cursor.text) <= FORGOTTEN_CHARS + 200
    assert [piece.text for piece in parser.feed('"}}</c>b')] == ['"}', "b"]
