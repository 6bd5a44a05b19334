"""Texts and bytes of single tokens: joined, they are the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sgcore.testing.checkpoints import train_tokenizer
from sgcore.tokenizer.detokenizer import Detokenizer, Offsets
from sgcore.tokenizer.spelling import Spelling, alphabet
from sgcore.tokenizer.tokenizer import Tokenizer

WORDS = ("▁Say", "▁two", "é")


def _byte_level() -> Fast:
    return train_tokenizer(["two words é"] * 3, 280, ["<s>", "</s>"])  # type: ignore[no-any-return]


def _byte_fallback() -> Fast:
    """As Llama 2's: U+2581 for spaces, one in front, bytes as a last resort."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(set("▁Saytwo "))]
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
        tokens += [word[:end] for end in range(1, len(word) + 1) if word[:end] not in tokens]
    model = models.BPE(
        {token: place for place, token in enumerate(tokens)}, merges, byte_fallback=True, unk_token="<unk>"
    )
    fast = Fast(model)
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", left=1)]
    fast.decoder = decoders.Sequence(steps)
    fast.add_special_tokens(["<s>", "</s>"])
    return fast


@pytest.fixture(scope="module", params=[_byte_level, _byte_fallback], ids=["byte-level", "byte-fallback"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=request.param(), bos_token="<s>", eos_token="</s>"), {})


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")) | st.text("Say two é🦙"))
def test_bytes_of_tokens_are_the_texts(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode("x" + text, add_special_tokens=False)
    joined = b"".join(tokenizer.token_bytes(token) for token in ids)
    assert joined.removeprefix(b" ") == ("x" + text).encode()


@settings(max_examples=200, deadline=None)
@given(words=st.lists(st.sampled_from(["Say", " two", "é", "🦙", " ", "S", "\n"]), max_size=8))
def test_texts_and_offsets_are_the_texts(tokenizer: Tokenizer, words: list[str]) -> None:
    prompt = tokenizer.encode("Say")
    ids = tokenizer.encode_more(" two" + "".join(words))
    text = tokenizer.decode(prompt + ids)[len(tokenizer.decode(prompt)) :]
    offsets = Offsets(Detokenizer(tokenizer, prompt))
    for token in ids:
        (place, _), one = offsets.push(token), tokenizer.token_text(token)
        if "\ufffd" not in one:
            assert text[place : place + len(one)] == one
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


@pytest.mark.parametrize("prompt", ["Say", "🦙🦙", "Say 🦙é🦙"])
def test_characters_of_byte_tokens_behind_one_another_are_shown_as_they_come(tokenizer: Tokenizer, prompt: str) -> None:
    text = "🦙🦙🦙é🦙S"
    detokenizer = Detokenizer(tokenizer, tokenizer.encode(prompt))
    shown = [detokenizer.push([token]) for token in tokenizer.encode_more(text)]
    assert [piece for piece in shown if piece] == list(text)


def test_special_tokens_and_ids_outside_the_vocabulary(tokenizer: Tokenizer) -> None:
    token = tokenizer.encode("</s>", add_special_tokens=False)[-1]
    assert (tokenizer.token_text(token), tokenizer.token_bytes(token)) == ("</s>", b"</s>")
    assert (tokenizer.token_text(1 << 30), tokenizer.token_bytes(1 << 30)) == ("", b"")


def test_the_alphabet_is_the_librarys() -> None:
    assert set(alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet().values()) == list(range(256))
    spelt = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("é 🦙\n")[0][0]
    assert Spelling({"type": "ByteLevel"}).bytes_of(spelt) == "é 🦙\n".encode()


def test_a_vocabulary_of_unknown_spelling_says_nothing() -> None:
    for decoder in (None, {"type": "WordPiece"}, {"type": "Sequence", "decoders": []}):
        assert Spelling(decoder).bytes_of("<0xE2>") is None


def test_tokens_up_to_a_place_in_their_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_more(" two é Say")
    for count in range(len(ids) + 1):
        text = tokenizer.decode(tokenizer.encode("Say") + ids[:count])[len("Say") :]
        if "\ufffd" not in text:
            assert tokenizer.tokens_to(len(text), ids) == count
