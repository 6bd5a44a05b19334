"""fp8 against its definition: a number is its E4M3 value times the scale of where it stands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgcore.testing.quantization import Packed, QuantSuite
from sgcore_fp8.scheme import Fp8Scheme

E4M3 = sorted(
    {m / 8 * 2.0**-6 for m in range(8)} | {(1 + m / 8) * 2.0**e for e in range(-6, 9) for m in range(8)} - {480.0}
)
"""Every magnitude of the type: 3 bits behind the point, exponents -6 to 8, the largest stands for no number."""


def rounded(x: Tensor) -> Tensor:
    """The nearest E4M3 number of each entry, ties to the even one, beyond the largest the largest."""
    grid = torch.tensor(E4M3)
    above = torch.searchsorted(grid, x.abs().contiguous()).clamp(max=len(grid) - 1)
    below = (above - 1).clamp(min=0)
    down, up = x.abs() - grid[below], grid[above] - x.abs()
    nearest = torch.where((down < up) | ((down == up) & (below % 2 == 0)), below, above)
    return grid[nearest].copysign(x)


def by_token(x: Tensor, group: int = 0) -> Tensor:
    parts = x.split(group, dim=1) if group else (x,)
    scales = [(part.abs().amax(1, keepdim=True) / 448).clamp(min=1e-12) for part in parts]
    return torch.cat([rounded(part / scale) * scale for part, scale in zip(parts, scales, strict=True)], dim=1)


class Fp8Suite(QuantSuite):
    scheme = Fp8Scheme
    config = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    error = 0.03
    quantises_at_start = True
    tolerance = 0.05  # an input near the middle of two numbers may be rounded the other way
    shapes = ((50, (7,)), (64, (24, 9, 16)), (300, (130, 40)))
    skip_key = "modules_to_not_convert"
    refused = ({"activation_scheme": "none"}, {"fmt": "e5m2"}, {"weight_block_size": 128}, {"quant_method": "fp4"})

    def scale(self, weight: Tensor) -> Tensor:
        """One for each row."""
        return weight.abs().amax(1, keepdim=True) / 448

    def pack(self, weight: Tensor) -> Packed:
        scale = self.scale(weight)
        numbers = rounded(weight / scale)
        tensors = {"weight": numbers.to(torch.float8_e4m3fn), "weight_scale": scale}
        return Packed(tensors, numbers * scale, by_token)


class TestRows(Fp8Suite): ...


class TestOneScale(Fp8Suite):
    skip_key = "ignored_layers"

    def scale(self, weight: Tensor) -> Tensor:
        return weight.abs().amax() / 448


class TestStatic(TestOneScale):
    """Each part has an input scale of its own, by its weight, and inputs beyond it are cut."""

    config = {"quant_method": "fp8", "activation_scheme": "static"}
    refused = ({"weight_block_size": [128, 128]},)

    def pack(self, weight: Tensor) -> Packed:
        packed = super().pack(weight)
        scale = weight.abs().mean() / 200
        return Packed(packed.tensors | {"input_scale": scale}, packed.weight, lambda x: rounded(x / scale) * scale)


class TestBlocks(Fp8Suite):
    config = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    shapes = ((256, (128, 256)), (300, (130, 40)), (64, (24, 9, 16)))

    def pack(self, weight: Tensor) -> Packed:
        scale, whole = torch.zeros(-(-weight.shape[0] // 128), -(-weight.shape[1] // 128)), torch.zeros_like(weight)
        for row, column in torch.cartesian_prod(*map(torch.arange, scale.shape)).tolist():
            here = (slice(row * 128, row * 128 + 128), slice(column * 128, column * 128 + 128))
            scale[row, column] = weight[here].abs().max() / 448
            whole[here] = rounded(weight[here] / scale[row, column]) * scale[row, column]
        wide = scale.repeat_interleave(128, 0)[: len(weight)].repeat_interleave(128, 1)[:, : weight.shape[1]]
        tensors = {"weight": (whole / wide).to(torch.float8_e4m3fn), "weight_scale_inv": scale}
        return Packed(tensors, whole, lambda x: by_token(x, 128))


class TestAtStart(Fp8Suite):
    config = {}
    options = {"quantization": "fp8"}
    refused = ({"quant_method": "other"},)

    def pack(self, weight: Tensor) -> Packed:
        packed = super().pack(weight)
        return Packed({"weight": weight}, packed.weight, by_token)


@pytest.mark.parametrize("name", ["self_attn.k_scale", "self_attn.k_proj.k_scale", "self_attn.kv_scale"])
def test_scales_of_a_cache_are_left_out(name: str) -> None:
    scheme = Fp8Scheme.from_config(Fp8Suite.config)
    assert scheme.is_unused(f"model.layers.0.{name}", torch.ones(1))
    assert not scheme.is_unused("model.layers.0.self_attn.k_proj.weight_scale", torch.ones(1))
