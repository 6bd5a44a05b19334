"""Stop strings: pieces say what the whole says, for every split."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sgcore.engine.stops import StopStrings

ALPHABET = "ab\n"


def cut(text: str, stops: tuple[str, ...], keeps: bool) -> tuple[str, str | None]:
    """The earliest end of a stop string decides, then the longest that ends there."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end if keeps else end - len(stop)], stop
    return text, None


@settings(max_examples=1000, deadline=None)
@given(
    pieces=st.lists(st.text(ALPHABET, max_size=1), max_size=12),
    stops=st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=3),
    keeps=st.booleans(),
)
def test_single_characters_equal_the_whole(pieces: list[str], stops: list[str], keeps: bool) -> None:
    finder, shown, matched = StopStrings(tuple(stops), keeps), "", None
    for place, piece in enumerate([*pieces, ""]):
        text, matched = finder.push(piece, is_last=place == len(pieces))
        shown += text
        if matched:
            break
    assert (shown, matched) == cut("".join(pieces), tuple(stops), keeps)


@settings(max_examples=500, deadline=None)
@given(
    text=st.text(ALPHABET, max_size=14),
    stops=st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 5), max_size=14),
)
def test_what_is_shown_never_holds_a_stop(text: str, stops: list[str], sizes: list[int]) -> None:
    finder, shown, place = StopStrings(tuple(stops)), "", 0
    matched = None
    for size in [*sizes, len(text)]:
        is_last = place + size >= len(text)
        piece, matched = finder.push(text[place : place + size], is_last)
        shown += piece
        place += size
        if matched or is_last:
            break
    assert not any(stop in shown for stop in stops)
    assert (matched is None) == (not any(stop in text[:place] for stop in stops))
    if matched is None:
        assert shown == text
