"""The head of a GGUF file: metadata and where each tensor lies.

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package reads it too, but makes a
numpy array of every string (1.8 s instead of 0.07 s for 49,152 tokens) and takes a string that is cut short for whole.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from sgcore.errors import LaunchError
from sgcore.model_config import shown

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DAMAGED = "the file is incomplete or damaged; download it again"
MOST_DIMENSIONS = 4
"""GGML_MAX_DIMS"""
LENGTH = struct.Struct("<Q")
SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor. `shape` is row-major (the file's own order reversed); `offset` counts from the file's start."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Header:
    """Metadata by key, tensors by name in the file's order."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> Header:
    """Raises `LaunchError` for a file that is missing, no GGUF, cut short, or holds a type that can't be read."""
    if path.exists() and not path.is_file():
        raise LaunchError(f"{path} is no regular file")
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise LaunchError(f"{path} is not a GGUF file: it doesn't start with 'GGUF'")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Parser(path, data).header()
    except OSError as error:
        raise LaunchError(f"can't read {path}: {error.strerror or error}") from error


class _Parser:
    """Reads forward through the file's head."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, len(MAGIC)

    def header(self) -> Header:
        try:
            version = self.one("I")
            if version not in VERSIONS:
                raise LaunchError(f"{self.path} is GGUF version {version}; versions 2 and 3 can be read, little-endian")
            tensor_count, key_count = self.one("Q"), self.one("Q")
            metadata = {self.text(): self.value(self.one("I")) for _ in range(key_count)}
            infos = [self.tensor_head() for _ in range(tensor_count)]
        except (struct.error, KeyError, ValueError, OverflowError, MemoryError, RecursionError) as error:
            raise LaunchError(f"{self.path} ends or breaks at byte {self.at:,}, in its header", DAMAGED) from error
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise LaunchError(f"{self.path}: general.alignment is {shown(alignment)}", DAMAGED)
        start = -(-self.at // alignment) * alignment
        tensors = {info[0]: self.tensor(start, *info) for info in infos}
        if len(tensors) < len(infos):
            raise LaunchError(f"{self.path} has two tensors of one name", DAMAGED)
        return Header(metadata, tensors)

    def one(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.one("Q")
        raw = self.data[self.at : self.at + length]
        if len(raw) != length:
            raise ValueError("a string goes past the end")
        self.at += length
        return raw.decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == GGUFValueType.STRING:
            return self.text()
        if kind == GGUFValueType.ARRAY:
            return self.array(self.one("I"), self.one("Q"))
        return self.one(SCALARS[GGUFValueType(kind)])

    def array(self, kind: int, count: int) -> list[Any]:
        if count > len(self.data) - self.at:
            raise ValueError("an array goes past the end")
        if kind == GGUFValueType.STRING:
            return self.texts(count)
        if kind == GGUFValueType.ARRAY:
            return [self.value(kind) for _ in range(count)]
        code = f"<{count}{SCALARS[GGUFValueType(kind)]}"
        values = struct.unpack_from(code, self.data, self.at)
        self.at += struct.calcsize(code)
        return list(values)

    def texts(self, count: int) -> list[str]:
        """As `text` so many times; vocabularies have hundreds of thousands."""
        data, at, read, found = self.data, self.at, LENGTH.unpack_from, []
        for _ in range(count):
            begin = at + LENGTH.size
            at = begin + read(data, at)[0]
            found.append(data[begin:at].decode("utf-8", errors="replace"))
        if at > len(data):
            raise ValueError("a string goes past the end")
        self.at = at
        return found

    def tensor_head(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text()
        dimensions = self.one("I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError("a tensor has too many dimensions")
        shape = tuple(self.one("Q") for _ in range(dimensions))
        return name, shape[::-1], self.one("I"), self.one("Q")

    def tensor(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
        try:
            known = GGMLQuantizationType(kind)
            block, block_bytes = GGML_QUANT_SIZES[known]
        except (KeyError, ValueError) as error:
            raise LaunchError(f"{self.path}: tensor {name} has the unknown type {kind}", "upgrade gguf") from error
        if 0 in shape:
            raise LaunchError(f"{self.path}: tensor {name} {shape} is empty", DAMAGED)
        size = prod(shape) // block * block_bytes
        if start + offset + size > len(self.data):
            raise LaunchError(f"{self.path} is cut short: tensor {name} ends past the file's end", DAMAGED)
        if shape and shape[-1] % block:
            raise LaunchError(f"{self.path}: rows of tensor {name} {shape} are not whole {known.name} blocks", DAMAGED)
        return TensorInfo(name, shape, known, start + offset, size)
