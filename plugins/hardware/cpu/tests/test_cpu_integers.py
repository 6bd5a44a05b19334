"""Beside the suite: products with integers are exact where no input has to be rounded."""

from __future__ import annotations

import pytest
import torch

from sgcore.kernels import PACK_BLOCK, Kernels
from sgcore.testing.kernels import packed
from sgcore_cpu import integers
from sgcore_cpu.kernels import GATED_TOKENS, CpuKernels
from sgcore_cpu.library import usable_levels

SHAPES = [(199, 64, 64), (40, 768, 96), (7, 128, 32), (160, 576, 192), (48, 64, 16)]
"""Outputs, inputs, and inputs of a group: with and without rows that fill no panel."""
levels = pytest.mark.parametrize("level", usable_levels())


def exact_inputs(tokens: int, size: int) -> torch.Tensor:
    """Multiples of 1/64 whose largest is 127/64 in each segment: 8 bits have them."""
    x = torch.randint(-127, 128, (tokens, size)).float() / 64
    x[:, ::16] = 127 / 64
    return x


@levels
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["none", "uint8", "float32"])
@pytest.mark.parametrize("rows, size, group", SHAPES)
def test_products_are_exact(level: str, bits: int, kind: str, rows: int, size: int, group: int) -> None:
    if bits == 4 and group % PACK_BLOCK:
        pytest.skip("4 bits have no such groups")
    kernels, groups = CpuKernels(level), size // group
    values = torch.randint(0, 1 << bits, (rows, size), dtype=torch.uint8)
    scales = (torch.rand(rows, groups) + 0.1) / 16
    zeros = {"none": None, "uint8": values[:, ::group].contiguous(), "float32": torch.rand(rows, groups) * 9 - 2}[kind]
    numbers = (values, scales if kind == "float32" else scales.half(), zeros)
    mine = packed(kernels, numbers, bits)
    wide = kernels.widen_int(*mine, bits)
    torch.testing.assert_close(wide, Kernels().widen_int(*packed(Kernels(), numbers, bits), bits), atol=1e-6, rtol=1e-6)
    for tokens in (1, 2, 3, 5, 12, 13, 40):
        x, bias = exact_inputs(tokens, size), torch.randn(rows)
        expected = x @ wide.T + bias
        atol = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(kernels.linear_int(x, *mine, bits, bias), expected, atol=atol, rtol=1e-5)


@levels
@pytest.mark.parametrize("tokens", [GATED_TOKENS, GATED_TOKENS + 1, 2 * GATED_TOKENS + 77])
def test_gate_and_up_of_some_tokens_at_a_time_are_those_of_all(level: str, tokens: int) -> None:
    kernels = CpuKernels(level)
    numbers = (torch.randint(0, 256, (96, 64), dtype=torch.uint8), torch.rand(96, 2) / 256, None)
    mine, x, bias = packed(kernels, numbers, 8), exact_inputs(tokens, 64), torch.randn(96)
    expected = kernels.silu_mul(kernels.linear_int(x, *mine, 8, bias))
    torch.testing.assert_close(kernels.gated_int(x, *mine, 8, bias), expected, atol=1e-5, rtol=1e-5)


@levels
def test_an_input_of_zeros_and_one_of_large_numbers(level: str) -> None:
    kernels = CpuKernels(level)
    mine = packed(kernels, (torch.full((16, 64), 255, dtype=torch.uint8), torch.ones(16, 1), None), 8)
    x = torch.stack((torch.zeros(64), torch.full((64,), 1e30), torch.full((64,), -1e-30)))
    expected = x.sum(1, keepdim=True).expand(3, 16) * 127
    torch.testing.assert_close(kernels.linear_int(x, *mine, 8), expected, rtol=1e-5, atol=0)


def test_scales_are_narrow_where_float16_has_them() -> None:
    narrow, wide = torch.full((16, 2), 0.125), torch.full((16, 2), 0.123)
    zeros = torch.full((16, 2), 7.75)
    assert {x.dtype for x in integers.pack_scales(narrow, zeros) if x is not None} == {torch.float16}
    assert {x.dtype for x in integers.pack_scales(wide, zeros) if x is not None} == {torch.float32}
    assert integers.pack_scales(narrow, zeros * 1e5)[0].dtype == torch.float32


@levels
def test_coarse_inputs_are_near(level: str) -> None:
    kernels = CpuKernels(level).for_rounded_weights()
    numbers = (torch.randint(0, 256, (64, 768), dtype=torch.uint8), torch.rand(64, 12), None)
    x = torch.randn(5, 768)
    x[1, 3] = 300.0
    expected = Kernels().linear_int(x, *packed(Kernels(), numbers, 8), 8)
    errors = (kernels.linear_int(x, *packed(kernels, numbers, 8), 8) - expected).abs() / expected.abs().amax(1, True)
    assert 1e-4 < errors.max() < kernels.integer_error
