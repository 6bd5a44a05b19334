"""Choices as tokens behind a text, and their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgcore.choices import METHODS
from sgcore.engine.messages import TokenLogprobs
from sgcore.engine.outputs import finite
from sgcore.errors import RequestError
from sgcore.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Candidate:
    """A choice as tokens behind the first `start` tokens of the text so far."""

    text: str
    start: int
    tokens: list[int]


def candidate(tokenizer: Tokenizer, ids: Sequence[int], choice: str) -> Candidate:
    """A choice behind `ids`, with the tokens that the text would have without a seam (token healing).

    Where the last token and the choice's beginning make another token together, that one counts as the choice's.
    """
    seam = tokenizer.token_text(ids[-1])
    joint = tokenizer.encode_more(seam + choice)
    if joint[0] == ids[-1]:
        return Candidate(choice, len(ids), joint[1:])
    if tokenizer.encode_more(seam) == [ids[-1]] and tokenizer.decode(joint, skip_special_tokens=False) == seam + choice:
        return Candidate(choice, len(ids) - 1, joint)
    return Candidate(choice, len(ids), tokenizer.encode_more(choice))


def check_method(name: str) -> str:
    """The same name. Raises RequestError for an unknown one."""
    if name not in METHODS:
        raise RequestError(f"unknown choice method {name[:64]!r}; known: {', '.join(METHODS)}", param="pieces")
    return name


def values(entries: Sequence[TokenLogprobs]) -> list[float]:
    """Log-probabilities of tokens; the first of a text, which nothing predicts, counts as 0."""
    return [finite(entry.logprob) or 0.0 for entry in entries]
