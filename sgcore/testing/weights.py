"""What every source of weights has to pass: the checkpoint that was written is the one that is read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sgcore import Engine
from sgcore.api import WeightSource
from sgcore.errors import LaunchError
from sgcore.plugins.drivers import find, load
from sgcore.plugins.installed import Installed
from sgcore.testing.checkpoints import greedy_tokens, train_tokenizer, write_checkpoint

TEXTS = ("The name of it is: 42.", "naïve 日本語 🙂", "a  b\n\n\tc", "<s>hi</s> there", " ", "don't")
TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
SPECIAL = ("<s>", "</s>")
PROMPT = (5, 9, 40, 17, 60, 33)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says, to be written in the format of a source."""

    model: Any
    """transformers' model, in float32."""
    tensors: dict[str, Tensor]
    """Its weights, by Hugging Face's names."""
    tokenizer: Any
    """A fast tokenizer of byte-level pairs as GPT-2 has, with a chat template; None: write none."""


class WeightSourceSuite:
    """Inherit it, call the class `Test...`, set `name` and `source`, and write a checkpoint in your format."""

    name: ClassVar[str]
    """The entry point's name, which is the value of `--load-format`."""
    source: ClassVar[type[WeightSource]]
    config: ClassVar[Any]
    """A transformers configuration of an installed architecture: a vocabulary of 300 or more, a few small layers."""
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16, torch.float16)
    """Types that the format keeps as they are."""
    carries_tokenizer: ClassVar[bool] = True

    def write(self, checkpoint: Checkpoint, folder: Path) -> Path:
        """Write the checkpoint into an empty folder; returns what a user would name to serve it."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
        model = write_checkpoint(cls.config, tmp_path_factory.mktemp("transformers"))
        tensors = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
        return Checkpoint(model, tensors, make_tokenizer())

    @pytest.fixture
    def path(self, checkpoint: Checkpoint, tmp_path: Path) -> Path:
        return self.write(checkpoint, tmp_path)

    def test_it_is_installed(self) -> None:
        assert load(find("weights", self.name, Installed.read())) is self.source
        assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in self.source.suffixes)

    def test_the_configuration_is_the_models(self, checkpoint: Checkpoint, path: Path) -> None:
        said, config = self.source(path).hf_config(), checkpoint.model.config
        assert said["architectures"] == [type(checkpoint.model).__name__]
        for size in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "tie_word_embeddings"):
            assert said.get(size, getattr(config, size)) == getattr(config, size), size

    def test_the_configuration_is_read_without_torch(self, path: Path) -> None:
        module, name = self.source.__module__, self.source.__name__
        code = (
            f"import sys; from pathlib import Path; from {module} import {name}\n"
            f"source = {name}(Path({str(path)!r}))\n"
            "source.hf_config(), source.tokenizer_config(), source.generation_config(), source.tensor_count()\n"
            "assert 'torch' not in sys.modules, 'the launcher opens a source and must not wait for torch'\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=100)

    def test_each_tensor_is_read_once_as_it_was_written(self, checkpoint: Checkpoint, path: Path) -> None:
        source = self.source(path)
        for _ in range(2):
            read = list(source.tensors())
            assert len(read) == len(dict(read)) == (source.tensor_count() or len(read))
            self.compare(dict(read), checkpoint.tensors)

    def test_types_are_kept(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        for dtype in self.dtypes:
            folder = tmp_path / str(dtype).removeprefix("torch.")
            folder.mkdir()
            tensors = {name: tensor.to(dtype) for name, tensor in checkpoint.tensors.items()}
            path = self.write(Checkpoint(checkpoint.model, tensors, None), folder)
            self.compare(dict(self.source(path).tensors()), tensors)

    @staticmethod
    def compare(read: dict[str, Tensor], written: dict[str, Tensor]) -> None:
        assert read.keys() == written.keys()
        for name, tensor in written.items():
            assert read[name].dtype == tensor.dtype and read[name].device.type == "cpu", name
            assert torch.equal(read[name], tensor), name

    def test_iterators_do_not_share_a_place(self, path: Path) -> None:
        source = self.source(path)
        first, second = source.tensors(), source.tensors()
        next(first)
        assert next(second)[0] == next(self.source(path).tensors())[0]

    def test_writing_to_a_tensor_leaves_the_file(self, path: Path) -> None:
        before = contents(path)
        for _, tensor in self.source(path).tensors():
            tensor.zero_()
        assert contents(path) == before

    def test_the_tokenizer_is_the_one_that_was_written(self, checkpoint: Checkpoint, path: Path) -> None:
        if not self.carries_tokenizer:
            pytest.skip("the format carries no tokenizer")
        source, written = self.source(path), checkpoint.tokenizer
        read = source.tokenizer()
        for text in TEXTS:
            ids = written(text).input_ids
            assert read(text).input_ids == ids
            assert read.decode(ids) == written.decode(ids)
        chat = [{"role": "user", "content": "hi"}]
        assert read.apply_chat_template(chat, tokenize=False) == "<s>hi</s>"
        assert source.tokenizer_config()["chat_template"] == TEMPLATE
        assert (read.bos_token, read.eos_token) == SPECIAL

    def test_a_missing_tokenizer_says_what_to_do(self, checkpoint: Checkpoint, tmp_path: Path) -> None:
        source = self.source(self.write(Checkpoint(checkpoint.model, checkpoint.tensors, None), tmp_path))
        with pytest.raises(LaunchError) as caught:
            source.tokenizer()
        assert "--tokenizer-path" in caught.value.hint

    def test_the_engine_computes_transformers_tokens(self, checkpoint: Checkpoint, path: Path) -> None:
        options: dict[str, Any] = {"dtype": "float32", "max_total_tokens": 256, "skip_tokenizer_init": True}
        greedy = {"temperature": 0.0, "max_new_tokens": 8, "ignore_eos": True}
        with Engine(model_path=str(path), load_format=self.name, **options) as engine:
            reply = engine.generate(input_ids=list(PROMPT), sampling_params=greedy)
        assert reply["output_ids"] == greedy_tokens(checkpoint.model, PROMPT, 8)

    def test_what_is_not_there_is_named(self, tmp_path: Path) -> None:
        missing = tmp_path / f"missing{next(iter(self.source.suffixes), '')}"
        with pytest.raises(LaunchError, match=missing.name):
            self.source(missing)

    def test_files_that_end_early_are_refused_when_opened(self, path: Path) -> None:
        for file in weight_files(self.source, path):
            whole = file.read_bytes()
            for length in cuts(len(whole)):
                file.write_bytes(whole[:length])
                with pytest.raises(LaunchError, match=file.name):
                    self.source(path)
            file.write_bytes(whole)
        self.source(path)


def make_tokenizer() -> Any:
    """A fast tokenizer as GPT-2's, of under 300 tokens."""
    from transformers import PreTrainedTokenizerFast

    trained = train_tokenizer([" ".join(TEXTS)] * 3, 290, SPECIAL)
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=trained, chat_template=TEMPLATE, bos_token=SPECIAL[0], eos_token=SPECIAL[1])


def contents(path: Path) -> dict[Path, bytes]:
    """Every file of a checkpoint."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file: file.read_bytes() for file in files}


def weight_files(source: type[WeightSource], path: Path) -> Iterator[Path]:
    """The files of a checkpoint that have one of the source's endings."""
    found = [file for file in contents(path) if file.suffix.lower() in source.suffixes]
    assert found, "set `suffixes`: no file of the checkpoint ends in one of them"
    yield from found


def cuts(length: int) -> list[int]:
    """Where a file is cut off: everywhere at its beginning, and at some places behind."""
    return sorted({*range(min(64, length)), *range(64, length, max(1, length // 16)), length - 1})
