"""The tokenizer splits as the model was trained, and not as transformers rebuilds it."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from sgcore.errors import LaunchError
from sgcore_gguf.source import GGUFSource
from sgcore_gguf.tokenizer import SPLITS, build_tokenizer

BYTES = sorted(ByteLevel.alphabet())
SPECIAL = ["<|bos|>", "<|im_end|>", "<tool>", "[PAD]"]
TYPES = [1] * len(BYTES) + [3, 3, 4, 5]


def metadata(pre: str, merges: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    tokens = BYTES + SPECIAL + [merge.replace(" ", "") for merge in merges]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": TYPES + [1] * len(merges),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": len(BYTES),
        "tokenizer.ggml.eos_token_id": len(BYTES) + 1,
        **changes,
    }


def words(pre: str, text: str) -> list[str]:
    """What byte pairs are merged within."""
    fast = build_tokenizer(metadata(pre)).backend_tokenizer
    normal = fast.normalizer.normalize_str(text) if fast.normalizer else text
    return [word for word, _ in fast.pre_tokenizer.pre_tokenize_str(normal)]


@pytest.fixture(scope="module")
def smollm(sample: GGUFSource) -> Any:
    return sample.tokenizer()


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1234", ["1", "2", "3", "4"]),
        ("in 2024", ["in", "Ġ", "2", "0", "2", "4"]),
        ("a  b", ["a", "Ġ", "Ġb"]),
        ("a   b", ["a", "ĠĠ", "Ġb"]),
        ("Hello world", ["Hello", "Ġworld"]),
    ],
)
def test_smollm_splits_digits_and_spaces(smollm: Any, text: str, tokens: list[str]) -> None:
    assert smollm.tokenize(text) == tokens


@pytest.mark.parametrize("text", ["  leading", "trailing  ", "a\n\n b\t", "naïve 日本語 🙂", "don't 12.5%", " "])
def test_smollm_round_trip(smollm: Any, text: str) -> None:
    assert smollm.decode(smollm(text).input_ids) == text


def test_smollm_special_tokens(smollm: Any) -> None:
    ids = smollm("<|im_start|>user\nhi<|im_end|>").input_ids
    assert (ids[0], ids[-1]) == (1, 2)
    assert smollm.decode(ids, skip_special_tokens=True) == "user\nhi"
    assert (smollm.eos_token_id, smollm.bos_token_id, len(smollm)) == (2, 1, 49152)
    assert smollm("hi").input_ids[0] != smollm.bos_token_id
    assert smollm.model_max_length == 8192


def test_the_launcher_reads_the_chat_template(sample: GGUFSource, smollm: Any) -> None:
    assert sample.tokenizer_config() == {"chat_template": smollm.chat_template}


def test_smollm_chat_template(smollm: Any) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert smollm.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "abc 1234", ["abc", "Ġ1234"]),
        ("smollm", "abc 1234", ["abc", "Ġ", "1", "2", "3", "4"]),
        ("qwen2", "abc 1234", ["abc", "Ġ", "1", "2", "3", "4"]),
        ("llama-bpe", "abc 1234", ["abc", "Ġ", "123", "4"]),
        ("tekken", "abcDef 12", ["abc", "Def", "Ġ", "1", "2"]),
        ("qwen2", "I'M x\n\n y", ["I", "'M", "Ġx", "ĊĊ", "Ġy"]),
        ("smollm", "I'M x", ["I", "'", "M", "Ġx"]),
    ],
)
def test_pre_tokenizers(pre: str, text: str, expected: list[str]) -> None:
    assert words(pre, text) == expected


def test_qwen2_composes_unicode() -> None:
    assert words("qwen2", "e\u0301") == words("qwen2", "é")
    assert words("smollm", "e\u0301") != words("smollm", "é")


def test_every_pre_tokenizer_round_trips() -> None:
    for pre in SPLITS:
        tokenizer = build_tokenizer(metadata(pre))
        assert tokenizer.decode(tokenizer("ab 12\n é", add_special_tokens=False).input_ids) == "ab 12\n é"


def test_user_defined_tokens_are_text_and_padding_is_nothing() -> None:
    tokenizer = build_tokenizer(metadata("qwen2"))
    ids = tokenizer("<tool>x<|im_end|>").input_ids
    assert ids == [len(BYTES) + 2, BYTES.index("x"), len(BYTES) + 1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool>x"
    assert "[PAD]" not in tokenizer.get_vocab()


def test_llama3_takes_a_whole_word_without_merging() -> None:
    """`abc` is a token that no merge makes."""
    tokens = [*BYTES, *SPECIAL, "abc"]
    changes = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [*TYPES, 1]}
    assert build_tokenizer(metadata("llama-bpe", **changes)).tokenize("abc") == ["abc"]
    assert build_tokenizer(metadata("qwen2", **changes)).tokenize("abc") == ["a", "b", "c"]


@pytest.mark.parametrize(("pre", "said", "adds"), [("llama-bpe", None, 1), ("llama-bpe", False, 0), ("qwen2", True, 1)])
def test_bos_token(pre: str, said: bool | None, adds: int) -> None:
    changes = {} if said is None else {"tokenizer.ggml.add_bos_token": said}
    tokenizer = build_tokenizer(metadata(pre, **changes))
    assert tokenizer("x").input_ids == [len(BYTES)] * adds + [BYTES.index("x")]


def test_sentencepiece_merges_by_score() -> None:
    pieces = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "c", "ab", "bc", "▁ab"]
    scores = [0.0] * 6 + [-5.0, -6.0, -7.0, -2.0, -1.0, -3.0]
    tokenizer = build_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": pieces,
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.token_type": [2, 3, 3, 6, 6, *[1] * 7],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
    )
    assert tokenizer.convert_ids_to_tokens(tokenizer("abc ab é").input_ids) == [
        *["<s>", "▁", "a", "bc"],
        *["▁ab", "▁", "<0xC3>", "<0xA9>"],
    ]
    assert tokenizer.decode(tokenizer("abc ab é").input_ids, skip_special_tokens=True) == "abc ab é"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokenizer.ggml.pre": "jina-v9"}, "jina-v9"),
        ({"tokenizer.ggml.model": "rwkv"}, "rwkv"),
        ({"tokenizer.ggml.tokens": None}, "no tokenizer"),
    ],
)
def test_unknown_tokenizers_are_named(changes: dict[str, Any], named: str) -> None:
    described = {key: value for key, value in {**metadata("qwen2"), **changes}.items() if value is not None}
    with pytest.raises(LaunchError, match=named) as caught:
        build_tokenizer(described)
    assert "--tokenizer-path" in caught.value.hint
