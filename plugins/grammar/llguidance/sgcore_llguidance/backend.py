"""llguidance's matchers behind the contract of grammars."""

from __future__ import annotations

from collections.abc import Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from sgcore.api import Constraint, Grammar, GrammarBackend, Masks, Matcher
from sgcore.errors import ConstraintError
from sgcore_llguidance.source import grammar_source

LIMITS = LLParserLimits(
    max_grammar_size=100_000, max_lexer_states=50_000, step_lexer_fuel=100_000, verbose_errors=False
)
"""A fifth of the library's own for what a client may make the server hold, and half of its work in one step."""
BASE_BYTES, BYTES_A_CHAR = 1 << 16, 32
"""Measured: a grammar of 460 characters takes 71 kB, one of 27,000 takes 690 kB."""
MOST_ERROR_CHARS = 1000


class LLGuidanceBackend(GrammarBackend):
    """Compilation and masks run without the interpreter's lock."""

    def __init__(self, tokenizer: str, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self.tokenizer = LLTokenizer(tokenizer, n_vocab=vocab_size, eos_token=list(eos_ids) or None)

    def compile(self, constraint: Constraint) -> Grammar:
        source = grammar_source(constraint, self.tokenizer)
        matcher = LLMatcher(self.tokenizer, source, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise ConstraintError(_cut(f"the {constraint.kind} can't be followed: {matcher.get_error()}"))
        warnings = matcher.get_grammar_warnings()
        if warnings:
            raise ConstraintError(_cut(f"the {constraint.kind} can't be followed: {'; '.join(warnings)}"))
        return LLGuidanceGrammar(matcher, BASE_BYTES + BYTES_A_CHAR * len(constraint.text))


class LLGuidanceGrammar(Grammar):
    """A matcher that never advances, to be copied."""

    def __init__(self, matcher: LLMatcher, size_bytes: int) -> None:
        self._matcher = matcher
        self.size_bytes = size_bytes

    def start(self) -> Matcher:
        return LLGuidanceMatcher(self._matcher.deep_copy())


class LLGuidanceMatcher(Matcher):
    """An llguidance matcher; its errors, which stay, are raised where they are noticed."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def accept(self, tokens: Sequence[int]) -> None:
        if not self._matcher.consume_tokens(list(tokens)):
            raise ConstraintError(self._error())

    def fill(self, mask: Masks) -> None:
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            raise ConstraintError(self._error())
        if not mask.any():
            raise ConstraintError("the grammar allows no token")

    def forced(self) -> Sequence[int]:
        return self._matcher.compute_ff_tokens()

    @property
    def is_complete(self) -> bool:
        return self._matcher.is_stopped()

    def _error(self) -> str:
        return _cut(f"the grammar can't go on: {self._matcher.get_error()}")


def _cut(message: str) -> str:
    """The library's message without its dump of state, grammar or stack."""
    plain = message.partition("\n<")[0].strip()
    return plain if len(plain) <= MOST_ERROR_CHARS else plain[:MOST_ERROR_CHARS] + "…"
