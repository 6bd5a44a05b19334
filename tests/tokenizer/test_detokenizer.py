"""Text that comes token by token equals the whole, and never shows half a character."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sgcore.tokenizer.detokenizer import Detokenizer
from sgcore.tokenizer.tokenizer import Tokenizer
from sgcore_gguf.source import GGUFSource
from tests.integration.serving import MODEL, needs_model

pytestmark = needs_model
REPLACEMENT = "\ufffd"
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT), max_size=30) | st.text(
    "aé漢🙂👩‍👩‍👧 \n", max_size=30
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(GGUFSource(MODEL).tokenizer(), {})


def pieces(tokenizer: Tokenizer, prompt: list[int], ids: list[int], sizes: list[int]) -> list[str]:
    detokenizer, found, begin = Detokenizer(tokenizer, prompt), [], 0
    for size in [*sizes, len(ids)]:
        is_last = begin + size >= len(ids)
        found.append(detokenizer.push(ids[begin : begin + size], is_last))
        begin += size
        if is_last:
            break
    return found


@settings(max_examples=500, deadline=None)
@given(prompt=st.text("ab é漢", max_size=10), text=TEXTS, sizes=st.lists(st.integers(1, 3), max_size=200))
def test_pieces_make_the_whole(tokenizer: Tokenizer, prompt: str, text: str, sizes: list[int]) -> None:
    before, ids = (tokenizer.encode(part, add_special_tokens=False) for part in (prompt, text))
    assume(tokenizer.decode(ids) == text)  # the vocabulary lacks a few bytes
    found = pieces(tokenizer, before, ids, sizes)
    assert "".join(found) == text
    assert not any(REPLACEMENT in piece for piece in found)


def test_a_character_of_several_tokens_waits_for_its_last(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🦤", add_special_tokens=False)
    assert len(ids) > 1
    assert pieces(tokenizer, [], ids, [1] * len(ids)) == [""] * (len(ids) - 1) + ["🦤"]


def test_half_a_character_is_shown_at_the_end_alone(tokenizer: Tokenizer) -> None:
    *most, _ = tokenizer.encode("ab🦤", add_special_tokens=False)
    found = pieces(tokenizer, [], most, [1] * len(most))
    assert "".join(found).startswith("ab") and REPLACEMENT in found[-1]
    assert not any(REPLACEMENT in piece for piece in found[:-1])


def test_bytes_that_never_make_a_character_are_not_held_forever(tokenizer: Tokenizer) -> None:
    start = tokenizer.encode("🦤", add_special_tokens=False)[0]
    detokenizer = Detokenizer(tokenizer, [])
    assert any(detokenizer.push([start]) for _ in range(20))
