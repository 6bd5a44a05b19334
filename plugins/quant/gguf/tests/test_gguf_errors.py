"""A file that can't be read is refused when it is opened, by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from sgcore.errors import LaunchError
from sgcore_gguf import hooks
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
