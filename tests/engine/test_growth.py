"""Outputs of the core as a growing generation, over a tokenizer of bytes and special tokens."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from sgcore.engine.generation import Generation, Growth
from sgcore.engine.messages import Output, SamplingParams
from sgcore.testing.checkpoints import train_tokenizer
from sgcore.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    trained = train_tokenizer([], 300, ["<end>", "<eot>", "<call>"])
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=trained, eos_token="<end>"), {})


def grown(tokenizer: Tokenizer, text: str, **sampling: object) -> Generation:
    generation = Generation("r", 0, tokenizer.encode("x"))
    growth = Growth(0, generation, SamplingParams(**sampling), tokenizer)  # type: ignore[arg-type]
    for token in tokenizer.encode(text):
        if growth.take(Output("r", [token])):
            break
    else:
        growth.take(Output("r", [], "length"))
    return generation


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize(
    ("stop", "shown"), [("<eot>", "good answér"), ("r<eot>", "good answé"), ("<eot> m", "good answér")]
)
def test_a_stop_string_may_spell_a_special_token(tokenizer: Tokenizer, stop: str, shown: str, skips: bool) -> None:
    generation = grown(tokenizer, "good answér<eot> more", stop=(stop,), skip_special_tokens=skips)
    assert (generation.text, generation.finish, generation.matched) == (shown, "stop", stop)


def test_special_tokens_stay_hidden_where_they_end_nothing(tokenizer: Tokenizer) -> None:
    generation = grown(tokenizer, "a<call>b<eot>c<call>d", stop=("<eot><call>", "zz"))
    assert (generation.text, generation.finish) == ("abcd", "length")


def test_a_stop_string_that_is_kept_shows_its_special_token(tokenizer: Tokenizer) -> None:
    generation = grown(tokenizer, "a<call>b<eot>c", stop=("b<eot>",), no_stop_trim=True)
    assert (generation.text, generation.matched) == ("ab<eot>", "b<eot>")
