"""llguidance's matchers behind the contract of grammars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from sgcore.api import Constraint, Grammar, GrammarBackend, Masks, Matcher
from sgcore.errors import ConstraintError
from sgcore_llguidance.source import grammar_source

LIMITS = LLParserLimits(max_grammar_size=100_000, max_lexer_states=50_000, verbose_errors=False)
"""The library's own for the work of a step; a fifth of its own for what the server holds (1 to 2 kB a state)."""
BASE_BYTES, BYTES_A_CHAR = 1 << 16, 32
"""Measured: a grammar of 460 characters takes 71 kB, one of 27,000 takes 690 kB."""
MOST_ERROR_CHARS = 1000
WRONG_TOKEN = "doesn't satisfy the grammar"
"""Stands in the library's error for a token that isn't allowed; other errors while tokens are taken are limits."""


class LLGuidanceBackend(GrammarBackend):
    """Compilation and masks run without the interpreter's lock."""

    def __init__(self, tokenizer: str, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self.tokenizer = LLTokenizer(tokenizer, n_vocab=vocab_size, eos_token=list(eos_ids) or None)

    def compile(self, constraint: Constraint) -> Grammar:
        source = grammar_source(constraint, self.tokenizer)
        create = partial(LLMatcher, self.tokenizer, source, log_level=0, limits=LIMITS)
        matcher = create()
        if matcher.is_error():
            raise ConstraintError(_cut(f"the {constraint.kind} can't be followed: {matcher.get_error()}"))
        warnings = matcher.get_grammar_warnings()
        if warnings:
            raise ConstraintError(_cut(f"the {constraint.kind} can't be followed: {'; '.join(warnings)}"))
        return LLGuidanceGrammar(create, matcher, BASE_BYTES + BYTES_A_CHAR * len(constraint.text))


class LLGuidanceGrammar(Grammar):
    """A matcher that never advances, to be copied.

    Copies share a lexer, which builds its states as outputs reach them: what one has built, the others needn't. When it
    reaches a limit it fails in all copies at once, and each goes on with a lexer of its own.
    """

    def __init__(self, create: Callable[[], LLMatcher], matcher: LLMatcher, size_bytes: int) -> None:
        self.create = create
        self._matcher = matcher
        self.size_bytes = size_bytes

    def start(self) -> Matcher:
        return LLGuidanceMatcher(self, self._matcher.deep_copy())


class LLGuidanceMatcher(Matcher):
    """An llguidance matcher, made anew from its tokens where the lexer it shares has failed."""

    def __init__(self, grammar: LLGuidanceGrammar, matcher: LLMatcher) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._tokens: list[int] = []
        self._has_own_lexer = False

    def accept(self, tokens: Sequence[int]) -> None:
        self._tokens += tokens
        if not self._is_usable or self._matcher.consume_tokens(list(tokens)):
            return
        if self._has_own_lexer or WRONG_TOKEN in self._matcher.get_error():
            raise ConstraintError(self._error())

    def fill(self, mask: Masks) -> None:
        if self._is_usable:
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if not self._is_usable and not self._has_own_lexer:
            self._leave_shared_lexer()
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if not self._is_usable:
            raise ConstraintError(self._error())
        if not mask.any():
            raise ConstraintError("the grammar allows no token")

    def forced(self) -> Sequence[int]:
        return self._matcher.compute_ff_tokens() if self._is_usable else ()

    @property
    def is_complete(self) -> bool:
        return self._is_usable and self._matcher.is_stopped()

    @property
    def _is_usable(self) -> bool:
        return not self._matcher.is_error()

    def _leave_shared_lexer(self) -> None:
        """Compile again, which is left to the threads that fill masks, and take the tokens so far (1 us each)."""
        self._grammar.has_failed = True
        self._matcher, self._has_own_lexer = self._grammar.create(), True
        self._matcher.consume_tokens(self._tokens)

    def _error(self) -> str:
        error = _cut(self._matcher.get_error())
        if WRONG_TOKEN in error:
            return f"the grammar doesn't allow this output: {error}"
        return f"the grammar reached a limit of this server (simplify its patterns, lower its maxLengths): {error}"


def _cut(message: str) -> str:
    """The library's message without its dump of state, grammar or stack."""
    plain = message.partition("\n<")[0].strip()
    return plain if len(plain) <= MOST_ERROR_CHARS else plain[:MOST_ERROR_CHARS] + "…"
