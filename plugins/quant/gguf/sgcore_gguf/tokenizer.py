"""The tokenizer that a GGUF file describes, as a fast tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from sgcore.errors import LaunchError

HINT = "give the tokenizer's Hugging Face folder with --tokenizer-path"


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, as in llama.h."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Split:
    """What happens to text before byte pairs are merged. `pattern` None: GPT-2's own."""

    pattern: str | None = None
    splits_digits: bool = False
    is_normalised: bool = False
    """Unicode is composed (NFC)."""
    ignores_merges: bool = False
    """A whole word that is a token is taken without merging."""
    adds_bos: bool = False
    """Where the file doesn't say."""


CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"

GPT2 = Split()
DIGITS = Split(splits_digits=True)
QWEN2 = Split(rf"{CONTRACTIONS}|{WORD}|\p{{N}}|{TAIL}", is_normalised=True)
LLAMA3 = Split(rf"{CONTRACTIONS}|{WORD}|\p{{N}}{{1,3}}|{TAIL}", ignores_merges=True, adds_bos=True)
TEKKEN = Split(
    rf"{TEKKEN_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ignores_merges=True,
    adds_bos=True,
)
SPLITS: dict[str, Split] = {
    **dict.fromkeys(("gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais"), GPT2),
    **dict.fromkeys(("default", "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), DIGITS),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), QWEN2),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), LLAMA3),
    "tekken": TEKKEN,
}
"""`tokenizer.ggml.pre` -> split; names as in llama.cpp's src/llama-vocab.cpp."""


def build_tokenizer(metadata: Mapping[str, Any], context_tokens: int | None = None) -> Any:
    """A `transformers.PreTrainedTokenizerFast`. Raises `LaunchError` for a kind of tokenizer that can't be rebuilt."""
    from transformers import PreTrainedTokenizerFast

    ggml = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    if "tokens" not in ggml:
        raise LaunchError("the GGUF file has no tokenizer", HINT)
    tokenizer, adds_bos = _rebuild(ggml)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        add_bos_token=bool(ggml.get("add_bos_token", adds_bos)),
        add_eos_token=bool(ggml.get("add_eos_token", False)),
        **({"model_max_length": context_tokens} if context_tokens else {}),
        **_named_tokens(ggml),
    )


def _rebuild(ggml: Mapping[str, Any]) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether it puts a BOS token where the file doesn't say."""
    kind = ggml.get("model")
    if kind == "gpt2":
        pre = str(ggml.get("pre", "default"))
        if pre not in SPLITS:
            raise LaunchError(f"the GGUF file's pre-tokenizer {pre!r} is not known; known: {', '.join(SPLITS)}", HINT)
        tokenizer, adds_bos = _byte_level(ggml, SPLITS[pre]), SPLITS[pre].adds_bos
    elif kind == "llama":
        tokenizer, adds_bos = _sentencepiece(ggml), True
    else:
        raise LaunchError(f"the GGUF file's tokenizer model {kind!r} is not known; known: gpt2, llama", HINT)
    _mark_special(tokenizer, ggml)
    return tokenizer, adds_bos


def _byte_level(ggml: Mapping[str, Any], split: Split) -> Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in ggml.get("merges", [])]
    tokenizer = Tokenizer(models.BPE(_vocabulary(ggml), merges, ignore_merges=split.ignores_merges))
    if split.is_normalised:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split.splits_digits else []
    if split.pattern:
        steps.append(pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(ggml: Mapping[str, Any]) -> Tokenizer:
    """Llama 2's: byte pairs whose order is the tokens' scores, spaces as U+2581, unknown text as bytes."""
    adds_space = bool(ggml.get("add_space_prefix", True))
    tokens = ggml["tokens"]
    unknown = tokens[ggml.get("unknown_token_id", 0)]
    merges = _merges_by_score(tokens, ggml["scores"])
    model = models.BPE(_vocabulary(ggml), merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    steps: list[Any] = [normalizers.Prepend("▁")] if adds_space else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", left=1)] if adds_space else []
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _merges_by_score(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """SentencePiece merges into the token with the best score first; ties in the order of ids."""
    ids = {token: index for index, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = []
    for index in sorted(range(len(tokens)), key=lambda index: -scores[index]):
        token = tokens[index]
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        found = [(left, right) for left, right in halves if left in ids and right in ids]
        merges += sorted(found, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return merges


def _vocabulary(ggml: Mapping[str, Any]) -> dict[str, int]:
    """Every token but the padding of the embedding, which no text makes."""
    return {token: index for index, token in enumerate(ggml["tokens"]) if _type(ggml, index) != TokenType.UNUSED}


def _mark_special(tokenizer: Tokenizer, ggml: Mapping[str, Any]) -> None:
    added = []
    for index, token in enumerate(ggml["tokens"]):
        if _type(ggml, index) in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
            is_special = _type(ggml, index) != TokenType.USER_DEFINED
            added.append(AddedToken(token, special=is_special, normalized=False))
    tokenizer.add_tokens(added)


def _type(ggml: Mapping[str, Any], index: int) -> int:
    types = ggml.get("token_type")
    return int(types[index]) if types else TokenType.NORMAL


def _named_tokens(ggml: Mapping[str, Any]) -> dict[str, str]:
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    ids = {argument: ggml.get(f"{name}_token_id") for name, argument in names.items()}
    return {argument: ggml["tokens"][index] for argument, index in ids.items() if index is not None}
