"""Files that are no checkpoint's are refused by name, before anything is read without end or allocated."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sgcore.errors import LaunchError
from sgcore.model_config import check_sizes
from sgcore.weights import settings
from sgcore.weights.dummy import DummySource
from sgcore.weights.folder import read_tokenizer
from sgcore.weights.safetensors import INDEX, SafetensorsSource

CONFIG = json.dumps({"architectures": ["A"], "hidden_size": 4})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(CONFIG)
    return folder


def refused(source: type, path: Path) -> str:
    with pytest.raises(LaunchError) as caught:
        source(path)
    return f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_pipes_and_devices_are_refused(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"{name} is no regular file" in refused(DummySource, folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert f"{name} is no regular file" in refused(DummySource, folder)


def test_the_folder_of_a_tokenizer_has_no_pipes_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(LaunchError, match=r"tokenizer\.json is no regular file"):
        read_tokenizer(tmp_path)


def test_templates_of_an_inner_folder_are_regular_files(folder: Path) -> None:
    inner = folder / "additional_chat_templates"
    inner.mkdir()
    os.mkfifo(inner / "tools.jinja")
    with pytest.raises(LaunchError, match=r"tools\.jinja: it is no regular file"):
        settings.read_tokenizer_config(folder)


def test_a_file_that_is_too_large_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "1,099,511,627,776 bytes" in refused(DummySource, folder)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "\udcff"])
def test_json_that_breaks_its_reader(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "config.json" in refused(DummySource, folder)


@pytest.mark.parametrize(
    "name", ["../../secret.safetensors", "a/../../b.safetensors", "/etc/hostname", 5, [], "", "a\0b"]
)
def test_an_index_stays_in_its_folder(folder: Path, name: Any) -> None:
    save_file({"a": torch.ones(1)}, folder.parent.parent / "secret.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    assert f"{INDEX} names" in refused(SafetensorsSource, folder)


def test_links_of_a_download_cache_lead_out_of_the_folder(folder: Path) -> None:
    blobs = folder.parent.parent / "blobs"
    blobs.mkdir()
    save_file({"a": torch.ones(1)}, blobs / "5eed")
    (folder / "model-1.safetensors").symlink_to("../../blobs/5eed")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert [name for name, _ in SafetensorsSource(folder).tensors()] == ["a"]


def test_what_lacks_without_an_index_is_not_its_fault(folder: Path) -> None:
    (folder / "model-1.safetensors").symlink_to("../../blobs/gone")
    message = refused(SafetensorsSource, folder)
    assert "lacks model-1.safetensors" in message
    assert INDEX not in message


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": "Llama"},
        {"architectures": [5]},
        {"model_type": 5},
        {"text_config": [1]},
        {"quantization_config": "int4"},
        {"quantization_config": {"quant_method": 5}},
        {"num_hidden_layers": 100_000},
        {"hidden_size": -4},
        {"n_embd": "x"},
        {"vocab_size": 1.5},
        {"max_position_embeddings": [512]},
        {"intermediate_size": [64, 1 << 40]},
        {"text_config": {"num_hidden_layers": 10**30}},
    ],
    ids=str,
)
def test_parts_and_sizes_that_no_model_has(change: dict[str, Any]) -> None:
    key, value = next(iter(change.items()))
    with pytest.raises(LaunchError, match=next(iter(value)) if isinstance(value, dict) else key):
        check_sizes(change)


def test_sizes_of_single_layers_are_sizes() -> None:
    check_sizes({"intermediate_size": [64, 128], "num_key_value_heads": [2, 1], "head_dim": None})
