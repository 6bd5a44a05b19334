"""NF4 (arXiv 2305.14314): a loaded weight becomes one of 16 values, with a scale for each block of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sgcore.api import Build, LinearMethod, QuantScheme
from sgcore.errors import LaunchError
from sgcore.layers.parameters import Axis, LayerParameters, replace
from sgcore.layers.skips import is_skipped

VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution, as appendix E has them."""


class NF4Linear(LinearMethod):
    """Two values a byte. The product is with the values as they are, in the model's type."""

    def __init__(self, build: Build, block: int) -> None:
        self.build, self.block = build, block
        self.values = torch.tensor(VALUES, device=build.device)

    def create(self, layer: nn.Module, in_features: int, out_features: Sequence[int]) -> None:
        if in_features % self.block:
            raise LaunchError(
                f"nf4: {in_features} input features aren't blocks of {self.block}", "try another block_size"
            )
        parameters = LayerParameters(layer, in_features, out_features, self.build.device)
        parameters.add("weight", self.build.dtype, output=Axis(0), input=Axis(1))

    def finish(self, layer: nn.Module) -> None:
        weight = layer.weight.data.float()
        blocks = weight.view(len(weight), -1, self.block)
        scales = blocks.abs().amax(-1, keepdim=True)
        near = (self.values[1:] + self.values[:-1]) / 2
        codes = torch.bucketize(blocks / scales.clamp(min=1e-12), near).to(torch.uint8).view(len(weight), -1, 2)
        replace(layer, "weight", codes[..., 0] | codes[..., 1] << 4)
        replace(layer, "scales", scales)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        codes = torch.stack((layer.weight & 15, layer.weight >> 4), dim=-1)
        blocks = self.values[codes.view(len(codes), -1, self.block).int()] * layer.scales
        return self.build.kernels.linear(x, blocks.flatten(1).to(x.dtype), bias)


class NF4Scheme(QuantScheme):
    """All linear layers but the output projection."""

    def __init__(self, block: int, skipped: Sequence[str]) -> None:
        self.block, self.skipped = block, skipped

    @classmethod
    def from_config(cls, quantization_config: Mapping[str, Any]) -> NF4Scheme:
        block = quantization_config.get("block_size", 64)
        if block not in (16, 32, 64, 128, 256):
            raise LaunchError(f"nf4: a block_size of {block} isn't known", "16, 32, 64, 128 and 256 are")
        return cls(block, quantization_config.get("modules_to_not_convert") or ())

    def linear(self, parts: Sequence[str], build: Build) -> LinearMethod | None:
        return None if is_skipped(parts, (*self.skipped, "lm_head")) else NF4Linear(build, self.block)
