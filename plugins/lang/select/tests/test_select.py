"""The word `select`, without a server."""

from __future__ import annotations

import pytest

from sgcore.lang import Capture, Score
from sgcore.testing.primitives import Drive, PrimitiveSuite
from sgcore_select import Select


class TestSelect(PrimitiveSuite):
    word = "select"
    examples = (
        lambda word: word("name", ["a", "b"]),
        lambda word: word(choices=("only",)),
        lambda word: word("name", choices=["a", "b"], choices_method="greedy_token_selection"),
    )


def test_asks_for_one_choice_and_keeps_it():
    asked = Drive(Select("x", ["a", "b"], choices_method="unconditional_likelihood_normalized")).requests
    assert asked == [Capture("x", Score(("a", "b"), "unconditional_likelihood_normalized"))]


def test_the_users_list_is_copied():
    choices = ["a", "b"]
    word = Select("x", choices)
    choices.append("c")
    assert word.choices == ("a", "b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs choices"),
        ({"choices": []}, "needs choices"),
        ({"choices": ["a", ""]}, "aren't empty"),
        ({"choices": ["a"], "temperature": 0.5}, "leave it 0"),
        ({"choices": ["a"], "choices_method": "best"}, "token_length_normalized"),
    ],
)
def test_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        Select("x", **arguments)
