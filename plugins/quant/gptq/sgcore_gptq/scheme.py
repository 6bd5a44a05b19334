"""`quant_method: gptq` (arXiv 2210.17323): 4 and 8 bits, with and without an order of activations.

`qweight` (in / n, out) int32 has n = 32 / bits input features in a word, the first in the lowest bits; `qzeros`
(groups, out / n) likewise along the outputs; `scales` (groups, out); `g_idx` (in,) is each input feature's group. The
format's first version stores zero points less one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sgcore.api import Build, LinearMethod, QuantScheme
from sgcore.errors import LaunchError
from sgcore.layers.integer import IntegerLinear, Integers, unpack_words
from sgcore.layers.parameters import Axis, LayerParameters
from sgcore_gptq.layers import Layers

BITS = (4, 8)
FORMATS = {"gptq": 1, "gptq_v2": 0}
"""`checkpoint_format` -> what has to be added to stored zero points."""


class GptqLinear(IntegerLinear):
    """The four tensors of a layer."""

    def __init__(self, build: Build, bits: int, group_size: int, zero_shift: int, is_ordered: bool) -> None:
        super().__init__(build, bits, group_size)
        self.zero_shift, self.is_ordered = zero_shift, is_ordered

    def register(self, parameters: LayerParameters, group: int) -> None:
        each = 32 // self.bits
        parameters.add("qweight", torch.int32, Axis(1), Axis(0, each))
        parameters.add("qzeros", torch.int32, Axis(1, each), Axis(0, group))
        parameters.add("scales", torch.float32, Axis(1), Axis(0, group))
        consecutive = torch.arange(parameters.in_features, dtype=torch.int32) // group
        parameters.add("g_idx", torch.int32, None, Axis(0), consecutive, is_optional=not self.is_ordered)

    def unpack(self, layer: nn.Module) -> Integers:
        values, zeros, scales, groups = (getattr(layer, name).data for name in ("qweight", "qzeros", "scales", "g_idx"))
        most = (1 << self.bits) - 1
        shifted = (unpack_words(zeros, self.bits, 1).int() + self.zero_shift & most).to(torch.uint8)
        numbers = unpack_words(values, self.bits, 0).T.contiguous()
        return Integers(numbers, scales.T, shifted.T.contiguous(), groups)


class GptqScheme(QuantScheme):
    """Layers of one number of bits; some may be left out."""

    def __init__(self, bits: int, group_size: int, zero_shift: int, is_ordered: bool, layers: Layers) -> None:
        self.bits, self.group_size, self.zero_shift, self.is_ordered = bits, group_size, zero_shift, is_ordered
        self.layers = layers

    @classmethod
    def from_config(cls, quantization_config: Mapping[str, Any]) -> GptqScheme:
        method, bits = quantization_config.get("quant_method"), quantization_config.get("bits")
        if method != "gptq":
            raise LaunchError("gptq reads checkpoints that are quantised already", "leave --quantization out")
        if bits not in BITS:
            raise LaunchError(f"gptq: {bits} bits aren't supported", f"one of {', '.join(map(str, BITS))}")
        stored = quantization_config.get("checkpoint_format") or "gptq"
        if stored not in FORMATS:
            raise LaunchError(f"gptq: unknown checkpoint_format {stored!r}", f"one of {', '.join(FORMATS)}")
        group_size = quantization_config.get("group_size")
        if not isinstance(group_size, int):
            raise LaunchError(f"gptq: group_size is {group_size!r}", "a number of input features, or -1 for all")
        is_ordered = bool(quantization_config.get("desc_act"))
        return cls(bits, group_size, FORMATS[stored], is_ordered, Layers.from_config(quantization_config))

    def linear(self, parts: Sequence[str], build: Build) -> LinearMethod | None:
        if self.layers.leaves_out(parts):
            return None
        return GptqLinear(build, self.bits, self.group_size, self.zero_shift, self.is_ordered)

    def is_unused(self, name: str, tensor: Tensor) -> bool:
        """Quantisers wrote biases of zeros for layers that have none."""
        return name.endswith(".bias") and not bool(tensor.any())
