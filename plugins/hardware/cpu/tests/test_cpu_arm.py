"""The suites at ARM's levels: its library runs under an emulator, in a process that is sent each call's memory."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sgcore.kernels import PACK_BLOCK, Kernels
from sgcore.testing.attention import AttentionSuite
from sgcore.testing.kernels import KernelSuite, packed
from sgcore_cpu import integers, paged
from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.library import OFF, SIGNATURES, P
from sgcore_cpu.native import build
from sgcore_cpu.tape import _word

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PROCESSORS = {"baseline": "cortex-a57", "neon_dotprod": "neoverse-n1"}
"""The emulator's names of processors whose best level is that."""
THREADS = "3"
PACKAGES = {COMPILER: "g++-aarch64-linux-gnu", EMULATOR: "qemu-user"}
missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"kernels for ARM (on Debian: apt install {' '.join(missing)})")

memory: dict[int, tuple[int, int]] = {}
"""By address that a call may have: where its block begins, and bytes."""


class Emulated:
    """What a `Library` has, of a level that this processor doesn't run."""

    def __init__(self, level: str, folder: Path) -> None:
        self.level = level
        found = subprocess.run([COMPILER, "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True)
        root = Path(found.stdout.strip()).resolve().parents[1]
        command = [EMULATOR, "-cpu", PROCESSORS[level], "-L", root, folder / "driver", folder / "arm.so"]
        pipe = subprocess.PIPE
        environment = {**os.environ, "OMP_NUM_THREADS": THREADS}
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
        self.best = int.from_bytes(self._read(4), sys.byteorder)
        for name in SIGNATURES:
            setattr(self, name, partial(self._call, name))

    def _call(self, name: str, *arguments: Any) -> None:
        words, is_address = list(map(_word, arguments)), [kind is P for kind in SIGNATURES[name]]
        arrays = {_word(argument): argument for argument in arguments if isinstance(argument, ctypes.Array)}
        lists = {begin for begin, array in arrays.items() if array._type_ is P}
        addresses = {word for word, counts in zip(words, is_address, strict=True) if word and counts}
        addresses |= {address for begin in lists for address in arrays[begin] if address}
        blocks = dict(memory[address] for address in addresses - arrays.keys())
        blocks |= {begin: ctypes.sizeof(array) for begin, array in arrays.items()}
        full = f"{name}_from_words_{self.level}".encode()
        self._write(_words(len(full)), full, _words(len(words), *words, *is_address), _words(len(blocks)))
        for begin, size in blocks.items():
            self._write(_words(begin, size, begin in lists), ctypes.string_at(begin, size))
        assert self.process.stdin is not None
        self.process.stdin.flush()
        for begin, size in blocks.items():
            if begin not in lists:
                ctypes.memmove(begin, self._read(size), size)

    def _write(self, *parts: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(parts))

    def _read(self, size: int) -> bytes:
        assert self.process.stdout is not None
        data = self.process.stdout.read(size)
        assert len(data) == size, f"the emulator ended with {self.process.wait()}"
        return data

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def _words(*words: int) -> bytes:
    return bytes((ctypes.c_uint64 * len(words))(*words))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library for ARM and the program that calls it."""
    folder = tmp_path_factory.mktemp("arm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", COMPILER)
        build.build(folder / "arm.so", build.ARM)
    source, driver = Path(__file__).parent / "emulated.cpp", folder / "driver"
    subprocess.run([COMPILER, "-std=c++17", "-O1", "-fopenmp", source, "-o", driver, "-ldl"], check=True)
    return folder


@pytest.fixture(scope="module", params=PROCESSORS)
def emulated(built: Path, request: pytest.FixtureRequest) -> Iterator[Emulated]:
    library = Emulated(request.param, built)
    yield library
    library.close()


@pytest.fixture(scope="module", autouse=True)
def known_memory() -> Iterator[None]:
    """Where blocks begin and end, of all addresses that are asked for."""
    address_of, prepare = torch.Tensor.data_ptr, paged.Call.prepare

    def note_tensor(tensor: torch.Tensor) -> int:
        address, storage = address_of(tensor), tensor.untyped_storage()
        memory[address] = storage.data_ptr(), storage.nbytes()
        return address

    def note_arrays(call: paged.Call, batch: Any, table: Any) -> None:
        prepare(call, batch, table)
        made = call.made
        for array in (table, made.pieces, made.tokens, made.limits, made.merged, made.begins, made.parts):
            memory[array.ctypes.data] = array.ctypes.data, max(1, array.nbytes)
        results, weights = (call.pointers[place] or 0 for place in (4, 5))
        memory[weights] = memory[results]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "data_ptr", note_tensor)
        patch.setattr(paged.Call, "prepare", note_arrays)
        yield
    memory.clear()


def kernels_of(library: Emulated) -> CpuKernels:
    kernels = CpuKernels(OFF)
    kernels.library, kernels.integer_error = library, integers.ERROR  # type: ignore[assignment]
    return kernels


class OnArm:
    """`kernels` at a level, in a suite."""

    dtypes = (torch.float32, torch.bfloat16)

    @pytest.fixture(autouse=True)
    def at_the_level(self, emulated: Emulated) -> None:
        type(self).kernels = kernels_of(emulated)  # type: ignore[attr-defined]


class TestKernels(OnArm, KernelSuite):
    pass


class TestAttention(OnArm, AttentionSuite):
    backend = paged.NativeAttention
    cache_poison = 1e9
    page_sizes = (16, 4)


def test_the_best_level_is_found(emulated: Emulated) -> None:
    assert list(build.ARM)[emulated.best] == emulated.level


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["none", "uint8", "float32"])
@pytest.mark.parametrize("rows, size, group", [(199, 64, 64), (7, 128, 32), (160, 576, 192), (48, 64, 16)])
def test_integers(emulated: Emulated, bits: int, kind: str, rows: int, size: int, group: int) -> None:
    """Exact where 8 bits have the inputs; with the largest and the least of weights and inputs."""
    if bits == 4 and group % PACK_BLOCK:
        pytest.skip("4 bits have no such groups")
    kernels, most = kernels_of(emulated), (1 << bits) - 1
    values = torch.randint(0, most + 1, (rows, size), dtype=torch.uint8)
    values[0], values[1] = 0, most
    scales = (torch.rand(rows, size // group) + 0.1) / 16
    zeros = {"none": None, "uint8": values[:, ::group].contiguous(), "float32": torch.rand(scales.shape) * 9 - 2}[kind]
    numbers = (values, scales if kind == "float32" else scales.half(), zeros)
    wide = Kernels().widen_int(*packed(Kernels(), numbers, bits), bits)
    for tokens in (1, 2, 3, 4, 7, 40):
        x, bias = torch.randint(-127, 128, (tokens, size)).float() / 64, torch.randn(rows)
        x[:, ::16], x[-1] = 127 / 64, -127 / 64
        expected = x @ wide.T + bias
        found = kernels.linear_int(x, *packed(kernels, numbers, bits), bits, bias)
        torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 7, 13, 70])
@pytest.mark.parametrize("rows, size", [(96, 64), (576, 960), (64, 12)])
def test_packed_weights(emulated: Emulated, dtype: torch.dtype, tokens: int, rows: int, size: int) -> None:
    kernels, x = kernels_of(emulated), torch.randn(tokens, size + 8).to(dtype)[:, :size]
    weight, bias = (torch.randn(rows, size) / size**0.5).to(dtype), torch.randn(rows).to(dtype)
    expected = (x.float() @ weight.float().T + bias.float()).to(dtype)
    tolerance = 8e-3 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(kernels.linear(x, kernels.pack(weight), bias), expected, rtol=tolerance, atol=1e-4)


def test_draws_and_ties(emulated: Emulated) -> None:
    rows = 64
    counters = (torch.arange(rows), torch.arange(rows) * 3)
    limits = (torch.full((rows,), rows), torch.ones(rows), torch.zeros(rows))
    expected = Kernels().sample(torch.zeros(rows, 64), *limits, *counters)
    assert torch.equal(kernels_of(emulated).sample(torch.zeros(rows, 64), *limits, *counters), expected)
