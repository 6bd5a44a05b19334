"""Format pack-quantized: integers in int32 words, the first in the lowest bits, shifted to begin at 0.

`weight_packed` (out, in / n) has n = 32 / bits input features in a word, `weight_zero_point` (out / n, groups) as many
outputs; `weight_scale` (out, groups); `weight_g_idx` (in,) with an order of activations; `weight_shape` says (out, in).
"""

from __future__ import annotations

import torch
from torch import nn

from sgcore.api import Build
from sgcore.layers.integer import IntegerLinear, Integers, unpack_words
from sgcore.layers.parameters import Axis, LayerParameters


class PackedLinear(IntegerLinear):
    """The tensors of a layer; without zero points the middle of the range stands for 0."""

    def __init__(self, build: Build, bits: int, group_size: int, is_symmetric: bool, is_ordered: bool) -> None:
        super().__init__(build, bits, group_size)
        self.is_symmetric, self.is_ordered = is_symmetric, is_ordered

    def register(self, parameters: LayerParameters, group: int) -> None:
        each = 32 // self.bits
        parameters.add("weight_packed", torch.int32, Axis(0), Axis(1, each))
        parameters.add("weight_scale", torch.float32, Axis(0), Axis(1, group))
        if not self.is_symmetric:
            parameters.add("weight_zero_point", torch.int32, Axis(0, each), Axis(1, group))
        if self.is_ordered:
            consecutive = torch.arange(parameters.in_features, dtype=torch.int32) // group
            parameters.add("weight_g_idx", torch.int32, None, Axis(0), consecutive)
        parameters.add("weight_shape", torch.int64, initial=torch.zeros(2, dtype=torch.int64), is_optional=True)

    def unpack(self, layer: nn.Module) -> Integers:
        values = unpack_words(_data(layer, "weight_packed"), self.bits, 1)
        zeros = None if self.is_symmetric else unpack_words(_data(layer, "weight_zero_point"), self.bits, 0)
        groups = _data(layer, "weight_g_idx") if self.is_ordered else None
        return Integers(values, _data(layer, "weight_scale"), zeros, groups)


def _data(layer: nn.Module, name: str) -> torch.Tensor:
    parameter: nn.Parameter = getattr(layer, name)
    return parameter.data
