"""Allowed tokens and bad words: every token that is sampled obeys them, with a grammar or without."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgcore import Engine
from sgcore.constraints.bans import Anything, Bans
from sgcore.constraints.progress import Progress
from sgcore.errors import ConstraintError, RequestError
from tests.constraints.conftest import MODEL_VOCABULARY, OpenEngine

VOCABULARY = 70
WORDS = 3
TOKENS = st.integers(0, VOCABULARY - 1)
FEW = st.integers(0, 3)


def open_tokens(progress: Progress) -> set[int]:
    mask = np.full(WORDS, -1, np.int32)
    progress.fill(mask)
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


@given(
    allowed=st.lists(TOKENS, max_size=20),
    words=st.lists(st.lists(FEW, min_size=1, max_size=4), max_size=6),
    output=st.lists(FEW, max_size=8),
)
def test_a_mask_has_the_allowed_tokens_that_end_no_bad_word(
    allowed: list[int], words: list[list[int]], output: list[int]
) -> None:
    progress = Progress(Anything(), bans=Bans(allowed, words, VOCABULARY))
    for token in output:
        progress.advance(token, 0)
    wanted = {
        token
        for token in allowed or range(VOCABULARY)
        if not any([*output, token][-len(word) :] == word for word in words)
    }
    if wanted:
        assert open_tokens(progress) == wanted
    else:
        with pytest.raises(ConstraintError, match="no token is left") as caught:
            open_tokens(progress)
        assert caught.value.status == 400


def ids_of(engine: Engine, **sampling: Any) -> list[list[int]]:
    params = {"max_new_tokens": 24, "temperature": 1.0, "ignore_eos": True, **sampling}
    replies = engine.generate(["The licence", "It is"] * 4, [{**params, "sampling_seed": seed} for seed in range(8)])
    return [reply["output_ids"] for reply in replies]


def test_nothing_but_allowed_tokens(engine: Engine) -> None:
    found = ids_of(engine, allowed_token_ids=[40, 50, 599, 300])
    assert {token for ids in found for token in ids} == {40, 50, 599, 300}
    assert all(len(ids) == 24 for ids in found)


def test_rows_beside_it_are_as_they_were(engine: Engine) -> None:
    params = {"max_new_tokens": 20, "temperature": 0}
    alone = engine.generate("The licence", params)["output_ids"]
    beside = engine.generate(["The licence"] * 2, [params, {**params, "allowed_token_ids": [7, 9]}])
    assert beside[0]["output_ids"] == alone and set(beside[1]["output_ids"]) <= {7, 9}


def is_text(tokenizer: Any, ids: list[int]) -> bool:
    """The text of these tokens is made of these tokens again."""
    text = tokenizer.decode(ids)
    return bool(text.strip()) and tokenizer.encode_more(text.lstrip()) == ids


def test_bad_words_are_not_written(engine: Engine) -> None:
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    free = engine.generate("The licence", {"max_new_tokens": 40, "temperature": 0})["output_ids"]
    for count in (1, 2, 3):
        place = next(n for n in range(40) if is_text(tokenizer, free[n : n + count]))
        word = free[place : place + count]
        first = next(n for n in range(40) if free[n : n + count] == word) + count - 1
        params = {"max_new_tokens": 40, "temperature": 0, "bad_words": [tokenizer.decode(word)]}
        ids = engine.generate("The licence", params)["output_ids"]
        assert word not in [ids[n : n + count] for n in range(len(ids))]
        assert ids[:first] == free[:first] and ids[first] != free[first]


def test_a_word_is_banned_with_and_without_a_space(engine: Engine) -> None:
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    plain, spaced = tokenizer.encode_more("or"), tokenizer.encode_more(" or")
    assert len(plain) == len(spaced) == 1 and plain != spaced
    allowed = [*plain, *spaced, 40]
    found = ids_of(engine, allowed_token_ids=allowed, bad_words=[" or"])
    assert {token for ids in found for token in ids} == {40}


def test_bans_hold_under_a_grammar_and_before_it_begins(open_engine: OpenEngine) -> None:
    engine = open_engine(page_size=4)
    sampling = {"regex": "[1-4]{40}", "max_new_tokens": 60, "bad_words": ["3", "12"]}
    for seed in range(4):
        text = engine.generate("Say", {**sampling, "sampling_seed": seed})["text"]
        assert re.fullmatch("[124]{40}", text)
    free = engine.generate("Say", {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True})["output_ids"]
    place = next(n for n in range(3, 12) if free[n] not in free[:n])
    ids = engine.generate(
        "Say",
        {
            "max_new_tokens": 12,
            "temperature": 0,
            "ignore_eos": True,
            "regex": "a{40}",
            "constraint_after": [MODEL_VOCABULARY - 1],
            "allowed_token_ids": [token for token in range(2, MODEL_VOCABULARY - 1) if token != free[place]],
        },
    )["output_ids"]
    assert ids[:place] == free[:place] and free[place] not in ids


def test_what_leaves_no_token_is_refused_and_harms_nobody(open_engine: OpenEngine) -> None:
    engine = open_engine(page_size=4)
    with pytest.raises(RequestError, match="no token is left") as caught:
        engine.generate("Say", {"regex": "a{40}", "bad_words": ["a"], "allowed_token_ids": [40]})
    assert caught.value.status == 400
    assert engine.generate("Say", {"regex": "a{40}", "max_new_tokens": 60})["text"] == "a" * 40


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        ({"allowed_token_ids": []}, "a list of 1 to"),
        ({"allowed_token_ids": [600]}, "below 600"),
        ({"allowed_token_ids": "12"}, "a list of 1 to"),
        ({"allowed_token_ids": [1], "min_new_tokens": 1}, "which min_new_tokens forbids"),
        ({"bad_words": ["a", ""]}, "texts of 1 to"),
        ({"bad_words": "a"}, "a list of at most"),
    ],
)
def test_refusals(open_engine: OpenEngine, sampling: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        open_engine(page_size=4).generate("Say", sampling)
    assert caught.value.param == next(iter(sampling))


def test_no_bad_words_and_null_ask_for_nothing(open_engine: OpenEngine) -> None:
    engine = open_engine(page_size=4)
    params = {"max_new_tokens": 4, "temperature": 0}
    plain = engine.generate("Say", params)["output_ids"]
    assert engine.generate("Say", {**params, "bad_words": [], "allowed_token_ids": None})["output_ids"] == plain
