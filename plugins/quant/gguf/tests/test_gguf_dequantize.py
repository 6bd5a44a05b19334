"""Every tensor type against the gguf package's own arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from sgcore_gguf import dequantize
from sgcore_gguf.source import GGUFSource

Q = GGMLQuantizationType
WRITABLE = [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0]
"""Types that the gguf package can quantise; the K types it only reads."""
READ_ONLY = [Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K]
ROWS, COLUMNS = 37, 512
NUMBERS = {
    "llama.embedding_length": COLUMNS,
    "llama.block_count": 1,
    "llama.feed_forward_length": 64,
    "llama.context_length": 128,
    "llama.attention.head_count": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def load(write_gguf, array: np.ndarray, kind: GGMLQuantizationType) -> torch.Tensor:
    tensors = {
        "token_embd.weight": (array, kind),
        "blk.0.attn_q.weight": np.zeros((2, COLUMNS), dtype=np.float32),
    }
    return dict(GGUFSource(write_gguf("llama", NUMBERS, tensors)).tensors())["model.embed_tokens.weight"]


def random_blocks(kind: GGMLQuantizationType) -> np.ndarray:
    """Random bytes, less the blocks whose half-precision scales come out infinite or no number."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    count = ROWS * COLUMNS // block
    raw = np.random.default_rng(0).integers(0, 256, (4 * count, block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        values = quants.dequantize(raw, kind)
        finite = np.isfinite(values).all(axis=1) & (np.abs(values).max(axis=1) < 1e30)
    return raw[finite][:count].reshape(ROWS, -1)


@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_quantised_rows(write_gguf, kind: GGMLQuantizationType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequantize, "CHUNK_ELEMENTS", 5 * COLUMNS)
    values = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    quantised = quants.quantize(values, kind)
    loaded = load(write_gguf, quantised, kind).numpy()
    np.testing.assert_array_equal(loaded, quants.dequantize(quantised, kind))
    assert np.abs(loaded - values).max() < 0.5


@pytest.mark.parametrize("kind", READ_ONLY, ids=lambda kind: kind.name)
def test_k_quantised_rows(write_gguf, kind: GGMLQuantizationType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dequantize, "CHUNK_ELEMENTS", 5 * COLUMNS)
    raw = random_blocks(kind)
    loaded = load(write_gguf, raw, kind)
    assert loaded.shape == (ROWS, COLUMNS)
    assert loaded.std() > 0
    np.testing.assert_array_equal(loaded.numpy(), quants.dequantize(raw, kind))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_plain_rows_keep_their_type(write_gguf, dtype: torch.dtype) -> None:
    values = torch.randn(ROWS, COLUMNS, dtype=dtype)
    loaded = load(write_gguf, values.numpy(), None)
    assert loaded.dtype == dtype
    assert torch.equal(loaded, values)


def test_bfloat16_rows_keep_their_type(write_gguf) -> None:
    values = torch.randn(ROWS, COLUMNS).bfloat16()
    loaded = load(write_gguf, values.view(torch.uint8).numpy(), Q.BF16)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded, values)


def test_writing_a_loaded_tensor_leaves_the_file(write_gguf, tmp_path: Path) -> None:
    loaded = load(write_gguf, np.ones((ROWS, COLUMNS), dtype=np.float32), None)
    before = (tmp_path / "tiny.gguf").read_bytes()
    loaded.zero_()
    assert (tmp_path / "tiny.gguf").read_bytes() == before
