"""A grammar backend of tests: languages made of arithmetic, and as slow to compile as it is told."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sgcore.api import Constraint, Grammar, GrammarBackend, Masks, Matcher
from sgcore.errors import ConstraintError

VOCABULARY = 1000
gate = threading.Event()
"""Constraints that begin with `slow` are compiled once this is set."""
compiled: list[str] = []


class FakeBackend(GrammarBackend):
    """A constraint is a number and a length: `7:40` has its own language, whose texts have 40 tokens."""

    def __init__(self, tokenizer: str, vocab_size: int, eos_ids: Sequence[int]) -> None:
        assert vocab_size == VOCABULARY

    def compile(self, constraint: Constraint) -> Grammar:
        text = constraint.text
        if text.startswith("slow"):
            assert gate.wait(30)
            text = text.removeprefix("slow")
        if text.startswith("bad"):
            raise ConstraintError("the keyword bad is not supported")
        compiled.append(constraint.text)
        seed, _, length = text.partition(":")
        return FakeGrammar(int(seed), int(length))


class FakeGrammar(Grammar):
    size_bytes = 1000

    def __init__(self, seed: int, length: int) -> None:
        self.seed, self.length = seed, length

    def start(self) -> FakeMatcher:
        return FakeMatcher(self.seed, self.length)


class FakeMatcher(Matcher):
    """Half of the states have one next token."""

    def __init__(self, seed: int, length: int) -> None:
        self.seed, self.left = seed, length

    def allowed(self) -> list[int]:
        state = self.seed * 7919 % 10007
        count = 1 if state % 2 else 1 + state % 5
        return [(state * (place + 3)) % VOCABULARY for place in range(count)]

    def accept(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if token not in self.allowed() or not self.left:
                raise ConstraintError(f"token {token} is not allowed")
            self.seed, self.left = self.seed * 31 + token, self.left - 1

    def fill(self, mask: Masks) -> None:
        mask[:] = 0
        for token in self.allowed():
            mask[token // 32] |= 1 << (token % 32) if token % 32 < 31 else -(2**31)

    def forced(self) -> Sequence[int]:
        ahead, found = FakeMatcher(self.seed, self.left), []
        while ahead.left and len(set(ahead.allowed())) == 1:
            found.append(ahead.allowed()[0])
            ahead.accept(found[-1:])
        return found

    @property
    def is_complete(self) -> bool:
        return not self.left
