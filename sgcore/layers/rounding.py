"""Weights in the model's type that are rounded to integers in groups after loading."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn

from sgcore.api import Build
from sgcore.layers.integer import IntegerLinear, Integers
from sgcore.layers.parameters import Axis, LayerParameters

ROWS = 4096
"""Rows that are rounded together: what is between takes several times their memory."""


class RoundedLinear(IntegerLinear):
    """Rounds to the nearest; 4 bits have zero points, 8 need none."""

    is_cacheable = True

    def __init__(self, build: Build, bits: int, largest_group: int, is_lossless: bool = False) -> None:
        """`is_lossless`: the weight is known to be such integers already."""
        super().__init__(build, bits, largest_group)
        if not is_lossless:
            self.kernels = build.kernels.for_rounded_weights()
        self.dtype, self.largest_group = build.dtype, largest_group

    def create(self, layer: nn.Module, in_features: int, out_features: Sequence[int]) -> None:
        self.group_size = gcd(in_features, self.largest_group)
        super().create(layer, in_features, out_features)

    def register(self, parameters: LayerParameters, group: int) -> None:
        parameters.add("weight", self.dtype, Axis(0), Axis(1))

    def unpack(self, layer: nn.Module) -> Integers:
        weight: Tensor = layer.weight.data  # type: ignore[assignment]
        rounding = round_around_zero if self.bits == 8 else round_between
        parts = [rounding(rows.float().reshape(len(rows), -1, self.group)) for rows in torch.split(weight, ROWS)]
        values, scales, zeros = (None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True))
        assert values is not None and scales is not None
        return Integers(values, scales, zeros)


Rounded = tuple[Tensor, Tensor, Tensor | None]


def round_around_zero(weight: Tensor) -> Rounded:
    """(rows, groups, size) float32 in 8 bits, 128 being 0: values (rows, groups * size), scales (rows, groups)."""
    scales = _scales(torch.maximum(weight.amax(2), -weight.amin(2)) / 127)
    values = (weight / scales.unsqueeze(2)).round_().clamp_(-128, 127).add_(128)
    return values.to(torch.uint8).flatten(1), scales, None


def round_between(weight: Tensor) -> Rounded:
    """(rows, groups, size) float32 in 4 bits from the least to the largest of a group, with the integer that is 0."""
    least, largest = weight.amin(2).clamp(max=0), weight.amax(2).clamp(min=0)
    scales = _scales((largest - least) / 15)
    zeros = (-least / scales).round().clamp(0, 15)
    values = (weight / scales.unsqueeze(2)).round_().add_(zeros.unsqueeze(2)).clamp_(0, 15)
    return values.to(torch.uint8).flatten(1), scales, zeros.to(torch.uint8)


def _scales(wanted: Tensor) -> Tensor:
    """Numbers that float16 has, none of them 0."""
    scales = wanted.half().float()
    return torch.where(scales > 0, scales, torch.ones_like(scales))
