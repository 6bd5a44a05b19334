"""Expressions that end a text: pieces say what the whole says, what is shown holds no match, and time is bounded."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgcore.engine.stop_patterns import BURST_S, MAX_MATCH_CHARS, StopPatterns, compiled

SOURCES = ["ab", "a+b", "a[ab]?b", "b.a", r"\n+", "(?<=a)b", "^ba", "b{2,3}", "(?:ab|ba){2}", "a$", r"\bb\b", "a(?!b)b"]


def cut(text: str, sources: tuple[str, ...], keeps: bool) -> tuple[str, str | None]:
    """The first character behind which an expression matches decides, then the order of the expressions."""
    for end in range(1, len(text) + 1):
        for source in sources:
            found = re.search(source, text[:end])
            if found is not None:
                return text[: found.end() if keeps else found.start()], source
    return text, None


@settings(max_examples=1000, deadline=None)
@given(
    pieces=st.lists(st.text("ab\n", max_size=4), max_size=10),
    sources=st.lists(st.sampled_from(SOURCES), min_size=1, max_size=3),
    keeps=st.booleans(),
)
def test_any_pieces_equal_the_whole(pieces: list[str], sources: list[str], keeps: bool) -> None:
    finder, shown, matched = StopPatterns(tuple(sources), keeps), "", None
    wanted = cut("".join(pieces), tuple(sources), keeps)
    for place, piece in enumerate([*pieces, ""]):
        text, matched = finder.push(piece, is_last=place == len(pieces))
        shown += text
        assert wanted[0].startswith(shown), "what was shown can't be taken back"
        if matched:
            break
    assert (shown, matched) == wanted


def test_what_can_begin_no_match_is_shown_at_once() -> None:
    finder = StopPatterns((r"\d{3}",))
    assert [finder.push(piece)[0] for piece in ("ab", "1", "2c", "3")] == ["ab", "", "12c", ""]
    assert finder.push("", is_last=True) == ("3", None)


def test_a_match_has_a_largest_length() -> None:
    finder = StopPatterns(("a.*z",))
    shown = "".join(finder.push(text)[0] for text in ["a"] + ["b"] * 3 * MAX_MATCH_CHARS)
    assert len(shown) > MAX_MATCH_CHARS
    assert finder.push("z")[1] is None


def test_an_expression_that_takes_too_long_ends_its_own_text() -> None:
    finder = StopPatterns(("(?:a|a)+[bc]",))
    began = time.thread_time()
    with pytest.raises(TimeoutError, match="simplify it"):
        for _ in range(400):
            finder.push("a" * 8)
    assert time.thread_time() - began < 100 * BURST_S


@pytest.mark.parametrize(
    ("source", "says"), [("(", "missing"), ("a*", "empty text"), ("(?R)", "too long"), ("|a", "empty")]
)
def test_expressions_that_cant_be_used(source: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        compiled(source)
