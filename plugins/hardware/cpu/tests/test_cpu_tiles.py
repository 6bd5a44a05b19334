"""Products by tiles (AMX): compiled with tiles in plain C++, for processors that have none."""

from __future__ import annotations

from ctypes import CDLL
from pathlib import Path

import pytest
import torch

from sgcore.kernels import PACK_BLOCK, Kernels
from sgcore.testing.kernels import packed
from sgcore_cpu import integers, library
from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.native import build


@pytest.fixture
def tiles(emulated: CDLL) -> CpuKernels:
    """At the level `amx`, its tiles emulated."""
    kernels = CpuKernels()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_shared", lambda: emulated)
        kernels.library = library.Library("amx")
    return kernels


def bound(expected: torch.Tensor, error: float) -> float:
    """Of the largest result, with the type's own rounding."""
    return (error + (8e-3 if expected.dtype == torch.bfloat16 else 0.0)) * float(expected.abs().max())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["none", "uint8", "float32"])
@pytest.mark.parametrize("rows, size, group", [(40, 768, 128), (199, 192, 64), (7, 96, 32), (16, 144, 48)])
def test_integers(tiles: CpuKernels, below: str, bits: int, kind: str, rows: int, size: int, group: int) -> None:
    """Near the reference, and equal to those without tiles, which few tokens are multiplied with here too."""
    if bits == 4 and group % PACK_BLOCK:
        pytest.skip("4 bits have no such groups")
    values = torch.randint(0, 1 << bits, (rows, size), dtype=torch.uint8)
    scales = (torch.rand(rows, size // group) + 0.1) / 16
    zeros = {"none": None, "uint8": values[:, ::group].contiguous(), "float32": torch.rand(scales.shape) * 9 - 2}[kind]
    mine, reference = (packed(kernels, (values, scales, zeros), bits) for kernels in (tiles, Kernels()))
    for tokens, dtype in ((32, torch.float32), (33, torch.bfloat16), (48, torch.float32), (61, torch.float32)):
        x, bias = torch.randn(tokens, size), torch.randn(rows).to(dtype)
        x[::3, 3] *= 40
        x = x.to(dtype)
        for coarseness in (0.0, integers.COARSE):
            tiles.coarseness = coarseness
            found = tiles.linear_int(x, *mine, bits, bias)
            expected = CpuKernels(below, coarseness).linear_int(x, *mine, bits, bias)
            assert torch.equal(found, expected)
            if not coarseness:
                expected = Kernels().linear_int(x, *reference, bits, bias)
                torch.testing.assert_close(found, expected, atol=bound(expected, integers.ERROR), rtol=0)


@pytest.mark.parametrize("tokens", [1, 2, 16, 17, 47, 70])
@pytest.mark.parametrize("rows, size", [(64, 96), (48, 960), (16, 32), (32, 40)])
def test_bfloats(tiles: CpuKernels, tokens: int, rows: int, size: int) -> None:
    x, bias = torch.randn(tokens, size + 8).bfloat16()[:, :size], torch.randn(rows).bfloat16()
    weight = (torch.randn(rows, size) / size**0.5).bfloat16()
    wide = x.float() @ weight.float().T
    for added, expected in ((None, wide), (bias, wide + bias.float())):
        found = tiles.linear(x, tiles.pack(weight), added)
        torch.testing.assert_close(found, expected.bfloat16(), rtol=8e-3, atol=1e-4)


def test_a_level_that_the_compiler_cannot_do_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    levels = {"baseline": ("-O0",), "abacus": ("-mabacus",)}
    made = build.build(tmp_path / "some.so", levels, said.append)
    assert len(said) == 1 and "abacus" in said[0] and "-mabacus" in said[0]
    shared = CDLL(str(made))
    assert hasattr(shared, "linear_int_baseline") and not hasattr(shared, "linear_int_abacus")
    monkeypatch.setattr(library, "_shared", lambda: shared)
    assert library.usable_levels() == ("baseline",)
