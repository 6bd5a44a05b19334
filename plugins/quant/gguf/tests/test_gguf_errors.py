"""A file that can't be read is refused when it is opened, by name."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from transformers import LlamaConfig

from sgcore.errors import LaunchError
from sgcore.model_config import check_sizes
from sgcore_gguf import configuration, hooks
from sgcore_gguf.architectures import hf_name
from sgcore_gguf.source import GGUFSource


@pytest.fixture
def whole(write_gguf) -> Path:
    tensors = {"token_embd.weight": np.ones((8, 32), dtype=np.float32), "output_norm.weight": np.ones(32, np.float32)}
    return write_gguf("llama", {"general.name": "whole", "tokenizer.ggml.tokens": ["a", "b"]}, tensors)


def refused(path: Path) -> str:
    with pytest.raises(LaunchError) as caught:
        GGUFSource(path)
    return f"{caught.value} {caught.value.hint}"


def test_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.gguf")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip"])
def test_not_a_gguf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.gguf").write_bytes(content)
    assert "is not a GGUF file" in refused(tmp_path / "other.gguf")


def test_every_truncation_is_refused(whole: Path) -> None:
    content = whole.read_bytes()
    for length in range(4, len(content), 3):
        whole.write_bytes(content[:length])
        message = refused(whole)
        assert "download it again" in message
        assert str(whole) in message


def test_unknown_version(tmp_path: Path) -> None:
    (tmp_path / "old.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))
    assert "version 1" in refused(tmp_path / "old.gguf")


def test_unknown_architecture(write_gguf) -> None:
    assert "'mamba' is not known; known: llama" in refused(write_gguf("mamba", {}, {}))


def test_tensor_type_that_cannot_be_dequantised(write_gguf) -> None:
    kind = GGMLQuantizationType.Q8_K
    path = write_gguf("llama", {}, {"token_embd.weight": (np.zeros((1, 292), dtype=np.uint8), kind)})
    assert "token_embd.weight has type Q8_K" in refused(path)


def test_tensor_type_from_the_future(whole: Path) -> None:
    content = whole.read_bytes()
    at = content.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
    whole.write_bytes(content[:at] + struct.pack("<I", 999) + content[at + 4 :])
    assert "token_embd.weight has the unknown type 999" in refused(whole)


@pytest.mark.parametrize("name", ["blk.0.ssm_in.weight", "blk.x.attn_q.weight", "mm.0.weight"])
def test_unknown_tensor(name: str) -> None:
    with pytest.raises(LaunchError, match=name):
        hf_name(name)


def test_hook_claims_files_by_their_ending() -> None:
    assert hooks.sgcore_select_weights(Path("a/b.GGUF")) == "gguf"
    assert hooks.sgcore_select_weights(Path("a/b.gguf/config.json")) is None


@pytest.fixture
def described(write_gguf, numbers) -> Path:
    """A file with everything that is read of one: sizes, a scaling, a tokenizer, a template, two layers' tensors."""
    config = LlamaConfig(
        vocab_size=4, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=16,
        num_key_value_heads=1,
    )  # fmt: skip
    tokens: dict[str, Any] = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "a", "b", "ab"],
        "tokenizer.ggml.scores": [0.0, -1.0, -2.0, -3.0], "tokenizer.ggml.token_type": [2, 1, 1, 1],
        "tokenizer.ggml.eos_token_id": 1, "tokenizer.chat_template": "{{ messages }}",
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 2.0, "general.alignment": 32,
    }  # fmt: skip
    names = ("token_embd", "output_norm", "blk.0.attn_q")
    tensors = {f"{name}.weight": np.ones((4, 32) if "norm" not in name else 32, np.float32) for name in names}
    return write_gguf("llama", {**numbers("llama", config), **tokens}, tensors)


def read_all(path: Path) -> None:
    """What the launcher and the frontend read."""
    source = GGUFSource(path)
    check_sizes(source.hf_config())
    source.generation_config()
    source.tokenizer_config()
    source.quantization_config()
    source.tokenizer()
    for _ in source.tensors():
        pass


@pytest.mark.parametrize(
    "change", [lambda byte: byte ^ 0xFF, lambda byte: byte ^ 1, lambda byte: 0], ids=["inverted", "one bit", "zero"]
)
def test_damage_anywhere_in_the_header_is_refused_or_harmless(described: Path, change: Callable[[int], int]) -> None:
    content = bytearray(described.read_bytes())
    read_all(described)
    header = content.index(b"blk.0.attn_q.weight") + 60
    refusals = 0
    for place in range(header):
        before, content[place] = content[place], change(content[place])
        described.write_bytes(content)
        content[place] = before
        try:
            read_all(described)
        except LaunchError:
            refusals += 1
    assert refusals > header // 4


@pytest.mark.parametrize("alignment", [0, "x", 1.5, [32]])
def test_an_alignment_that_cannot_be(write_gguf, alignment: Any) -> None:
    assert "general.alignment" in refused(write_gguf("llama", {"general.alignment": alignment}, {}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_count", 100_000), ("block_count", "2"), ("embedding_length", -1.0), ("attention.head_count", 0),
        ("attention.head_count", [2, 0]), ("context_length", True), ("attention.layer_norm_rms_epsilon", "x"),
        ("rope.freq_base", "x"), ("attention.head_count_kv", ["a"]),
    ],
)  # fmt: skip
def test_a_size_that_cannot_be(write_gguf, numbers, key: str, value: Any) -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1, vocab_size=4)
    path = write_gguf(
        "llama",
        {**numbers("llama", config), f"llama.{key}": value},
        {"token_embd.weight": np.ones((4, 32), np.float32)},
    )
    with pytest.raises(LaunchError, match=rf"{key}|{configuration.NUMBERS[key]}"):
        GGUFSource(path).hf_config()


def test_arrays_within_arrays_without_end(tmp_path: Path) -> None:
    nested = struct.pack("<IQ", 9, 1) * 100_000
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + nested
    (tmp_path / "deep.gguf").write_bytes(content)
    assert "in its header" in refused(tmp_path / "deep.gguf")


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "is no regular file" in refused(tmp_path / "pipe.gguf")
