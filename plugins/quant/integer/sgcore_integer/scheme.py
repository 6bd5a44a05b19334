"""`--quantization int8` and `int4`: the weights of any checkpoint, rounded to integers in groups when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sgcore.api import Build, LinearMethod, QuantScheme
from sgcore.errors import LaunchError
from sgcore.layers.integer import IntegerLinear, Integers
from sgcore.layers.parameters import Axis, LayerParameters

LARGEST_GROUP = {8: 64, 4: 32}
"""Input features that share a scale, by bits."""
OUTPUT = "lm_head"
"""It is the layer that suffers most, and gets 8 bits."""
ROWS = 4096
"""Rows that are rounded together: what is between takes several times their memory."""


class RoundedLinear(IntegerLinear):
    """A weight in the model's type that is rounded after loading; 4 bits have zero points, 8 need none."""

    def __init__(self, build: Build, bits: int) -> None:
        super().__init__(build, bits, LARGEST_GROUP[bits])
        self.dtype = build.dtype

    def create(self, layer: nn.Module, in_features: int, out_features: Sequence[int]) -> None:
        self.group_size = gcd(in_features, LARGEST_GROUP[self.bits])
        super().create(layer, in_features, out_features)

    def register(self, parameters: LayerParameters, group: int) -> None:
        parameters.add("weight", self.dtype, Axis(0), Axis(1))

    def unpack(self, layer: nn.Module) -> Integers:
        weight: Tensor = layer.weight.data  # type: ignore[assignment]
        rounding = round_around_zero if self.bits == 8 else round_between
        parts = [rounding(rows.float().unflatten(1, (-1, self.group))) for rows in weight.split(ROWS)]
        values, scales, zeros = (None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True))
        assert values is not None and scales is not None
        return Integers(values, scales, zeros)


Rounded = tuple[Tensor, Tensor, Tensor | None]


def round_around_zero(weight: Tensor) -> Rounded:
    """(rows, groups, size) float32 in 8 bits, 128 being 0: values (rows, groups * size), scales (rows, groups)."""
    scales = _scales(weight.abs().amax(2) / 127)
    values = (weight / scales.unsqueeze(2)).round().clamp(-128, 127) + 128
    return values.to(torch.uint8).flatten(1), scales, None


def round_between(weight: Tensor) -> Rounded:
    """(rows, groups, size) float32 in 4 bits from the least to the largest of a group, with the integer that is 0."""
    least, largest = weight.amin(2).clamp(max=0), weight.amax(2).clamp(min=0)
    scales = _scales((largest - least) / 15)
    zeros = (-least / scales).round().clamp(0, 15)
    values = ((weight / scales.unsqueeze(2)).round() + zeros.unsqueeze(2)).clamp(0, 15)
    return values.to(torch.uint8).flatten(1), scales, zeros.to(torch.uint8)


def _scales(wanted: Tensor) -> Tensor:
    """Numbers that float16 has, none of them 0."""
    scales = wanted.half().float()
    return torch.where(scales > 0, scales, torch.ones_like(scales))


class RoundedScheme(QuantScheme):
    """Every layer."""

    bits: ClassVar[int]

    @classmethod
    def from_config(cls, quantization_config: Mapping[str, Any]) -> RoundedScheme:
        if quantization_config:
            method = quantization_config.get("quant_method")
            raise LaunchError(f"the checkpoint is quantised already, by {method}", "leave --quantization out")
        return cls()

    def linear(self, parts: Sequence[str], build: Build) -> LinearMethod | None:
        return RoundedLinear(build, 8 if parts[0].endswith(OUTPUT) else self.bits)

    def tied(self, build: Build) -> LinearMethod | None:
        return RoundedLinear(build, 8)


class Int8Scheme(RoundedScheme):
    """8 bits in groups of 64 features."""

    bits = 8


class Int4Scheme(RoundedScheme):
    """4 bits in groups of 32 features, with zero points."""

    bits = 4
