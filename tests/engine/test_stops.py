"""Stop strings: pieces say what the whole says, for every split."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sgcore.engine.stops import HiddenTokens, StopStrings

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
    pieces=st.lists(st.text(ALPHABET, max_size=4), max_size=12),
    stops=st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=3),
    keeps=st.booleans(),
)
def test_any_pieces_equal_the_whole(pieces: list[str], stops: list[str], keeps: bool) -> None:
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


SPECIAL = {7: "<s>", 8: "<s><e>", 9: "#"}
TOKENS = {1: "a", 2: "b", 3: "\n", **SPECIAL}
UNITS = st.sampled_from(["a", "b", "<s>", "<s><e>", "#"])


@settings(max_examples=1000, deadline=None)
@given(
    pieces=st.lists(st.lists(st.sampled_from(sorted(TOKENS)), max_size=3), max_size=8),
    stops=st.lists(st.lists(UNITS, min_size=1, max_size=3).map("".join), min_size=1, max_size=3),
    keeps=st.booleans(),
)
def test_special_tokens_end_an_answer_that_does_not_show_them(
    pieces: list[list[int]], stops: list[str], keeps: bool
) -> None:
    def push(tokens: list[int], is_last: bool) -> str:
        return "".join(TOKENS[token] for token in tokens if token not in SPECIAL)

    hidden = HiddenTokens(SPECIAL, tuple(stops))
    finder, shown, matched = StopStrings(hidden.stops, keeps), "", None
    for token in [token for tokens in pieces for token in tokens]:
        text, matched = hidden.unmarked(*finder.push(hidden.marked([token], False, push)))
        shown += text
        if matched:
            break
    else:
        shown += hidden.unmarked(*finder.push(hidden.marked([], True, push), True))[0]
    units = [TOKENS[token] for tokens in pieces for token in tokens]
    whole, expected = _first_stop([unit for unit in units if _is_seen(unit, stops)], stops)
    assert matched == expected
    visible = _without_special(whole.removesuffix(expected or ""))
    assert shown == visible + (expected if keeps and expected else "")


def _is_seen(unit: str, stops: list[str]) -> bool:
    """Special tokens that no stop spells are not there."""
    return unit not in SPECIAL.values() or any(unit in stop for stop in stops)


def _first_stop(units: list[str], stops: list[str]) -> tuple[str, str | None]:
    """The text up to the first unit behind which a stop stands, which is the longest there."""
    text = ""
    for unit in units:
        text += unit
        found = [stop for stop in stops if text.endswith(stop)]
        if found:
            return text, max(found, key=len)
    return text, None


def _without_special(text: str) -> str:
    for special in ("<s><e>", "<s>", "#"):
        text = text.replace(special, "")
    return text


def test_text_that_spells_a_special_token_ends_an_answer_too() -> None:
    hidden = HiddenTokens({7: "<s>"}, ("a<s>",))
    finder = StopStrings(hidden.stops)
    assert hidden.unmarked(*finder.push("xa<s>b")) == ("x", "a<s>")
