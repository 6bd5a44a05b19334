"""Hugging Face folders, with weights and with random ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from sgcore.errors import LaunchError
from sgcore.testing.weights import Checkpoint, WeightSourceSuite
from sgcore.weights import safetensors
from sgcore.weights.dummy import DummySource
from sgcore.weights.folder import PLAIN_TOKENIZER, read_tokenizer
from sgcore.weights.loader import load_weights
from sgcore.weights.safetensors import SafetensorsSource
from sgcore.weights.settings import read_tokenizer_config

CPU = torch.device("cpu")
SHAPE = dict(vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
             num_key_value_heads=2, head_dim=8)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["A"], "hidden_size": 4}))
    return tmp_path


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"a": torch.randn(3, 4), "b": torch.randn(2).bfloat16()}


def shard(folder: Path, tensors: dict[str, Tensor]) -> None:
    """One file a tensor, and the index."""
    names = {name: f"model-{name}.safetensors" for name in tensors}
    for name, file in names.items():
        save_file({name: tensors[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def refused(source: type, path: Path) -> str:
    with pytest.raises(LaunchError) as caught:
        source(path)
    return f"{caught.value} {caught.value.hint}"


class TestSafetensors(WeightSourceSuite):
    name, source = "safetensors", SafetensorsSource
    config = LlamaConfig(**SHAPE)

    def write(self, checkpoint: Checkpoint, folder: Path) -> Path:
        checkpoint.model.config.save_pretrained(folder)
        if checkpoint.tokenizer is not None:
            checkpoint.tokenizer.save_pretrained(folder)
        self.save(checkpoint.tensors, folder)
        return folder

    def save(self, tensors: dict[str, Tensor], folder: Path) -> None:
        save_file(tensors, folder / "model.safetensors")


class TestShards(TestSafetensors):
    config = LlamaConfig(**SHAPE, tie_word_embeddings=True)

    def save(self, tensors: dict[str, Tensor], folder: Path) -> None:
        shard(folder, tensors)


@pytest.mark.parametrize("is_sharded", [False, True])
def test_other_files_of_the_folder_are_left_alone(folder: Path, tensors: dict[str, Tensor], is_sharded: bool) -> None:
    if is_sharded:
        shard(folder, tensors)
    else:
        save_file(tensors, folder / "model.safetensors")
    save_file({"stray": torch.zeros(1)}, folder / "consolidated.safetensors")
    assert dict(SafetensorsSource(folder).tensors()).keys() == tensors.keys()


def test_a_single_file_stands_for_its_folder(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "any.safetensors")
    source = SafetensorsSource(folder / "any.safetensors")
    assert (source.tensor_count(), source.hf_config()["hidden_size"]) == (2, 4)


@pytest.mark.parametrize("source", [SafetensorsSource, DummySource])
def test_configurations(source: Any, folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors")
    assert source(folder).hf_config() == {"architectures": ["A"], "hidden_size": 4}
    assert source(folder).generation_config() == {}
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    assert source(folder).generation_config() == {"temperature": 0.6}


def test_missing_folder_and_configuration(tmp_path: Path) -> None:
    assert "is not a folder" in refused(DummySource, tmp_path / "none")
    assert "config.json: No such file" in refused(DummySource, tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "is not valid JSON" in refused(DummySource, tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "no JSON object" in refused(DummySource, tmp_path)


def test_missing_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    assert "--load-format dummy" in refused(SafetensorsSource, folder)
    shard(folder, tensors)
    (folder / "model-b.safetensors").unlink()
    assert "lacks model-b.safetensors" in refused(SafetensorsSource, folder)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8, bias=False)
        self.first = nn.Linear(300, 50)
        self.second = nn.Linear(300, 50)
        self.packed_int = nn.Parameter(torch.zeros(16, 4, dtype=torch.int32), requires_grad=False)


def random_layers(folder: Path, seed: int = 0) -> Layers:
    model = Layers()
    load_weights(model, DummySource(folder), CPU, torch.float32, seed)
    return model


def test_random_weights(folder: Path) -> None:
    model = random_layers(folder)
    assert torch.equal(model.norm.weight, torch.ones(8))
    assert model.first.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not torch.equal(model.first.weight, model.second.weight)
    assert len(model.first.weight.unique(dim=0)) == 50
    assert model.packed_int.any()


def test_random_weights_are_their_seeds(folder: Path) -> None:
    first, again, other = random_layers(folder), random_layers(folder), random_layers(folder, seed=1)
    assert torch.equal(first.first.weight, again.first.weight)
    assert not torch.equal(first.first.weight, other.first.weight)


def test_what_the_launcher_asks_of_the_tokenizer(folder: Path) -> None:
    source = DummySource(folder)
    assert source.tokenizer_config() == {}
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old", "response_template": {"a": 1}}))
    assert source.tokenizer_config() == {"chat_template": "old", "response_template": {"a": 1}}
    (folder / "chat_template.jinja").write_text("new")
    assert source.tokenizer_config()["chat_template"] == "new"


@pytest.fixture
def tokenizer_folder(folder: Path) -> Path:
    inner = Tokenizer(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?").save_pretrained(folder)
    return folder


def test_a_plain_tokenizer_is_the_one_that_transformers_chooses_without_torch(tokenizer_folder: Path) -> None:
    settings = json.loads((tokenizer_folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == PLAIN_TOKENIZER
    chosen, read = AutoTokenizer.from_pretrained(tokenizer_folder), read_tokenizer(tokenizer_folder)
    assert type(read) is type(chosen) and read.backend_tokenizer.to_str() == chosen.backend_tokenizer.to_str()
    assert read.init_kwargs.keys() == chosen.init_kwargs.keys()
    code = "import sys, pathlib, sgcore.weights.folder as f; f.read_tokenizer(pathlib.Path(sys.argv[1]))"
    assertion = "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"{code}; {assertion}", str(tokenizer_folder)], check=True)


def test_other_tokenizers_are_left_to_transformers(tokenizer_folder: Path) -> None:
    file = tokenizer_folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))
    with pytest.raises((OSError, ValueError, KeyError, TypeError)):
        read_tokenizer(tokenizer_folder / "no")
    assert type(read_tokenizer(tokenizer_folder)) is type(AutoTokenizer.from_pretrained(tokenizer_folder))


def test_tensors_of_a_file_that_is_mapped_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "MAPPED_BYTES", 10)
    written = {f"t{index}": torch.full((4,), float(index)) for index in range(9)}
    save_file(written, folder / "model.safetensors")
    read = dict(SafetensorsSource(folder).tensors())
    assert read.keys() == written.keys() and all(torch.equal(read[name], written[name]) for name in written)


def test_all_chat_templates_of_a_folder_are_read(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "e", "chat_template": "config's"}))
    assert read_tokenizer_config(folder) == {"eos_token": "e", "chat_template": "config's"}
    (folder / "chat_template.jinja").write_text("plain")
    assert read_tokenizer_config(folder)["chat_template"] == "plain"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("é tools")
    both = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "é tools"}]
    assert read_tokenizer_config(folder)["chat_template"] == both
    (folder / "chat_template.jinja").unlink()
    assert read_tokenizer_config(folder)["chat_template"] == both[1:]
    (folder / "additional_chat_templates" / "tool_use.jinja").write_bytes(b"\xff")
    with pytest.raises(LaunchError, match="tool_use"):
        read_tokenizer_config(folder)
