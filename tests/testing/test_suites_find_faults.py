"""The conformance suites of sources, grammars and models fail for a plugin that breaks its contract."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig

from sgcore.api import Constraint, Grammar, GrammarBackend, Masks, Matcher
from sgcore.errors import ConstraintError
from sgcore.layers.decoder import DecoderModel
from sgcore.testing.checkpoints import write_checkpoint
from sgcore.testing.grammars import GrammarSuite
from sgcore.testing.languages import END, LANGUAGES, VOCABULARY, make_tokenizer
from sgcore.testing.models import ModelSuite
from sgcore.testing.weights import Checkpoint, WeightSourceSuite
from sgcore.weights.safetensors import SafetensorsSource


class Forgetful(SafetensorsSource):
    """Leaves a tensor out."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(list(super().tensors())[1:])


class Widening(SafetensorsSource):
    """Gives every tensor in one type."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor.float()) for name, tensor in super().tensors())


class Once(SafetensorsSource):
    """Has one place in the file for all who read it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.place = super().tensors()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return self.place


class Late(SafetensorsSource):
    """Looks at its files when a tensor is read."""

    def __init__(self, path: Path) -> None:
        self.folder, self.names = path, {}


class Suite(WeightSourceSuite):
    def write(self, checkpoint: Checkpoint, folder: Path) -> Path:
        checkpoint.model.config.save_pretrained(folder)
        save_file(checkpoint.tensors, folder / "model.safetensors")
        return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    sizes: dict[str, Any] = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = write_checkpoint(LlamaConfig(vocab_size=64, **sizes), tmp_path_factory.mktemp("model"))
    return Checkpoint(model, {name: tensor.detach() for name, tensor in model.named_parameters()}, None)


@pytest.mark.parametrize(
    ("source", "test"),
    [
        (Forgetful, "test_each_tensor_is_read_once_as_it_was_written"),
        (Widening, "test_types_are_kept"),
        (Once, "test_iterators_do_not_share_a_place"),
        (Late, "test_files_that_end_early_are_refused_when_opened"),
    ],
)
def test_a_source_at_fault(source: Any, test: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    suite = Suite()
    suite.source = source  # type: ignore[misc]
    given = {"checkpoint": checkpoint, "tmp_path": tmp_path}
    if test != "test_types_are_kept":
        given["path"] = suite.write(checkpoint, tmp_path)
    with pytest.raises((AssertionError, StopIteration, pytest.fail.Exception)):
        run(getattr(suite, test), given)


def run(test: Any, given: dict[str, Any]) -> None:
    """Call a suite's method with its fixtures."""
    names = test.__code__.co_varnames[1 : test.__code__.co_argcount]
    test(**{name: given[name] for name in names})


class Words(GrammarBackend):
    """One of some texts, token by token, as the tokenizer splits them; `fault` says what is wrong with it."""

    fault = ""

    def __init__(self, tokenizer: str, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self.tokenizer = Tokenizer.from_str(tokenizer)

    def compile(self, constraint: Constraint) -> Grammar:
        if constraint.kind != "choice":
            raise ConstraintError(f"no {constraint.kind}")
        return WordsGrammar([self.tokenizer.encode(text).ids for text in json.loads(constraint.text)], self.fault)


class WordsGrammar(Grammar):
    size_bytes = 1

    def __init__(self, texts: list[list[int]], fault: str) -> None:
        self.texts, self.fault = texts, fault
        self.shared = WordsMatcher(texts, fault)

    def start(self) -> Matcher:
        return self.shared if self.fault == "shared" else WordsMatcher(self.texts, self.fault)


class WordsMatcher(Matcher):
    def __init__(self, texts: list[list[int]], fault: str) -> None:
        self.left, self.fault = texts, fault

    def accept(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            left = [text[1:] for text in self.left if text and text[0] == token]
            if not left and self.fault != "accepts":
                raise ConstraintError("not allowed")
            self.left = left or self.left

    def fill(self, mask: Masks) -> None:
        if self.fault != "stale":
            mask[:] = 0
        for token in {text[0] if text else END for text in self.left} | ({7} if self.fault == "fills" else set()):
            mask[token // 32] |= 1 << (token % 32) if token % 32 < 31 else -(2**31)

    def forced(self) -> Sequence[int]:
        return self.left[0][:1] if self.fault == "forces" else ()

    @property
    def is_complete(self) -> bool:
        return self.left == [[]]


FAULTS = {
    "shared": "test_matchers_of_one_grammar_are_apart",
    "accepts": "test_a_token_that_is_not_allowed_is_an_error",
    "stale": "test_a_mask_has_no_bit_behind_the_tokenizers_tokens",
    "fills": "test_a_mask_has_the_tokens_that_are_accepted_and_no_others",
    "forces": "test_forced_tokens_are_the_tokenizers_own_and_alone_in_the_mask",
}


class Grammars(GrammarSuite):
    kinds = frozenset({"choice"})


def run_suite(test: str, fault: str) -> None:
    tokenizer = make_tokenizer()
    opened = Words(tokenizer.to_str(), VOCABULARY, [END])
    opened.fault = fault
    supported = [language for language in LANGUAGES if language.kind == "choice"]
    run(getattr(Grammars(), test), {"opened": opened, "tokenizer": tokenizer, "supported": supported})


@pytest.mark.parametrize(("fault", "test"), FAULTS.items())
def test_a_backend_at_fault(fault: str, test: str) -> None:
    run_suite(test, "")
    with pytest.raises((AssertionError, ConstraintError, pytest.fail.Exception)):
        run_suite(test, fault)


class Llama(ModelSuite):
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8,
        max_position_embeddings=512,
    )  # fmt: skip


def test_a_model_that_computes_on_without_a_key_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgcore.testing.models.changes_of", lambda model, raw: iter([{"hidden_act": "gelu"}]))
    prompt = list(range(3, 20))

    def keys_are_tried(folder: Path) -> None:
        folder.mkdir()
        checkpoint = folder, write_checkpoint(Llama.config, folder)
        Llama().test_every_key_of_the_configuration_is_followed_or_refused(checkpoint, [prompt, prompt], folder)

    keys_are_tried(tmp_path / "refused")
    monkeypatch.setattr(DecoderModel, "keys", {})
    with pytest.raises(AssertionError, match="hidden_act 'gelu': log-probabilities differ"):
        keys_are_tried(tmp_path / "ignored")
