"""What every grammar backend has to pass: an output may be what the constraint describes, and nothing else."""

from __future__ import annotations

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest

from sgcore.api import Constraint, Grammar, GrammarBackend
from sgcore.errors import ConstraintError
from sgcore.plugins.drivers import find, load
from sgcore.plugins.installed import Installed
from sgcore.testing.languages import (
    BAD,
    END,
    LANGUAGES,
    TOKENS,
    VOCABULARY,
    Language,
    accepts,
    allowed,
    at,
    bits,
    make_tokenizer,
    takes,
    walk,
)

WALKS = 8
MOST_ERROR_CHARS = 2000


class GrammarSuite:
    """Inherit it, call the class `Test...`, set `name` and `backend`."""

    name: ClassVar[str]
    """The entry point's name, which is the value of `--grammar-backend`."""
    backend: ClassVar[type[GrammarBackend]]
    kinds: ClassVar[frozenset[str]] = frozenset({"json_schema", "regex", "choice", "ebnf", "structural_tag"})
    """Kinds of constraint that the backend has; it must refuse the others by name."""
    languages: ClassVar[tuple[Language, ...]] = ()
    """More of them."""

    @pytest.fixture(scope="class")
    @classmethod
    def tokenizer(cls) -> Any:
        return make_tokenizer()

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, tokenizer: Any) -> GrammarBackend:
        return cls.backend(tokenizer.to_str(), VOCABULARY, [END])

    @pytest.fixture(scope="class")
    @classmethod
    def supported(cls) -> list[Language]:
        return [language for language in (*LANGUAGES, *cls.languages) if language.kind in cls.kinds]

    def test_it_is_installed(self) -> None:
        assert load(find("grammar", self.name, Installed.read())) is self.backend

    def test_what_the_constraint_describes_is_taken(
        self, opened: GrammarBackend, tokenizer: Any, supported: list[Language]
    ) -> None:
        for language in supported:
            grammar = opened.compile(language.constraint)
            assert grammar.size_bytes > 0
            for text in language.good:
                assert any(takes(grammar, tokenizer, said) for said in language.spellings(text)), (language, text)

    def test_nothing_else_is_taken(self, opened: GrammarBackend, tokenizer: Any, supported: list[Language]) -> None:
        for language in supported:
            grammar = opened.compile(language.constraint)
            for text in language.bad:
                assert not takes(grammar, tokenizer, text), (language, text)

    def test_a_mask_has_the_tokens_that_are_accepted_and_no_others(
        self, opened: GrammarBackend, tokenizer: Any, supported: list[Language]
    ) -> None:
        for language in supported:
            grammar = opened.compile(language.constraint)
            ids = self.written(grammar, tokenizer, language)
            for length in range(min(4, len(ids))):
                matcher = at(grammar, ids[:length])
                mask, is_free = set(allowed(matcher)) - {END}, not matcher.forced()
                taken = {token for token in range(2, TOKENS) if accepts(at(grammar, ids[:length]), token)}
                assert ids[length] in mask and mask - {1} <= taken
                assert mask - {1} == taken or not is_free, (language, length)

    def test_a_mask_has_no_bit_behind_the_tokenizers_tokens(
        self, opened: GrammarBackend, supported: list[Language]
    ) -> None:
        for language in supported:
            mask = np.full(-(-VOCABULARY // 32), -1, np.int32)
            opened.compile(language.constraint).start().fill(mask)
            assert bits(mask).max() < TOKENS, "what a fill leaves of the mask before it would be sampled"

    def test_outputs_that_follow_the_mask_are_taken(
        self, opened: GrammarBackend, tokenizer: Any, supported: list[Language]
    ) -> None:
        """Random tokens of the masks, as a model without a mind of its own would choose them."""
        for language in supported:
            grammar = opened.compile(language.constraint)
            for seed in range(WALKS):
                ids, has_ended = walk(grammar, random.Random(seed))
                if has_ended:
                    self.check_output(language, tokenizer.decode(ids, skip_special_tokens=False))

    @staticmethod
    def check_output(language: Language, text: str) -> None:
        """Whether an output is in the language, by another reader of it than the backend's."""
        if language.kind == "regex":
            assert re.fullmatch(language.text, text, re.DOTALL), text
        elif language.kind == "choice":
            assert text in language.text
        elif language.kind == "json_schema":
            json.loads(text)

    def test_forced_tokens_are_the_tokenizers_own_and_alone_in_the_mask(
        self, opened: GrammarBackend, tokenizer: Any, supported: list[Language]
    ) -> None:
        for language in supported:
            grammar = opened.compile(language.constraint)
            ids = self.written(grammar, tokenizer, language)
            for length in range(len(ids)):
                forced = list(at(grammar, ids[:length]).forced())
                assert forced == ids[length : length + len(forced)], (language, length)
                if forced:
                    assert allowed(at(grammar, ids[:length])) == forced[:1]

    def test_an_output_ends_where_it_may_and_has_to_where_nothing_may_follow(
        self, opened: GrammarBackend, tokenizer: Any
    ) -> None:
        self.needs("choice")
        matcher = opened.compile(Constraint("choice", '["ab", "abc"]')).start()
        assert not matcher.is_complete and END not in allowed(matcher)
        matcher.accept(tokenizer.encode("ab").ids)
        assert not matcher.is_complete and END in allowed(matcher)
        matcher.accept(tokenizer.encode("c").ids)
        assert matcher.is_complete or allowed(matcher) == [END]

    def test_matchers_of_one_grammar_are_apart(self, opened: GrammarBackend, tokenizer: Any) -> None:
        self.needs("choice")
        grammar = opened.compile(Constraint("choice", '["aaa", "bbb"]'))
        first, second = grammar.start(), grammar.start()
        first.accept(tokenizer.encode("a").ids)
        second.accept(tokenizer.encode("b").ids)
        assert not set(allowed(first)) & set(allowed(second))

    def test_threads_compile_and_fill_at_the_same_time(
        self, opened: GrammarBackend, tokenizer: Any, supported: list[Language]
    ) -> None:
        def masks(language: Language) -> list[list[int]]:
            grammar = opened.compile(language.constraint)
            ids = self.written(grammar, tokenizer, language)
            return [allowed(at(grammar, ids[:length])) for length in range(len(ids))]

        alone = [masks(language) for language in supported]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(masks, supported * 4)) == alone * 4

    def test_a_token_that_is_not_allowed_is_an_error(self, opened: GrammarBackend, supported: list[Language]) -> None:
        for language in supported:
            grammar = opened.compile(language.constraint)
            wrong = sorted(set(range(2, TOKENS)) - set(allowed(grammar.start())))
            for token in wrong[:3]:
                with pytest.raises(ConstraintError):
                    grammar.start().accept([token])

    @pytest.mark.parametrize("constraint", BAD, ids=lambda constraint: constraint.kind)
    def test_what_is_wrong_is_refused_in_a_few_words(self, opened: GrammarBackend, constraint: Constraint) -> None:
        with pytest.raises(ConstraintError) as caught:
            opened.compile(constraint)
        message = str(caught.value)
        assert 0 < len(message) <= MOST_ERROR_CHARS
        assert constraint.kind in self.kinds or constraint.kind in message

    def needs(self, kind: str) -> None:
        if kind not in self.kinds:
            pytest.skip(f"the backend has no {kind}")

    @staticmethod
    def written(grammar: Grammar, tokenizer: Any, language: Language) -> list[int]:
        """The tokens of the language's last example, as the backend wants it written."""
        spellings = sorted(language.spellings(language.good[-1]))
        said = next(text for text in spellings if takes(grammar, tokenizer, text))
        return list(tokenizer.encode(said).ids)
