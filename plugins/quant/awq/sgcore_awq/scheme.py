"""`quant_method: awq`, version gemm (arXiv 2306.00978): 4 bits in groups, with zero points.

`qweight` (in, out / 8) and `qzeros` (groups, out / 8) int32 have 8 outputs in a word, in the order 0 2 4 6 1 3 5 7 from
the lowest bits; `scales` (groups, out).
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
from sgcore.layers.skips import is_skipped

BITS = 4
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Output -> its place in a word."""
UNQUANTISED = "lm_head"
"""Only the layers of the decoder's blocks are quantised, whether the configuration says so or not."""


class AwqLinear(IntegerLinear):
    """The three tensors of a layer."""

    def register(self, parameters: LayerParameters, group: int) -> None:
        parameters.add("qweight", torch.int32, Axis(1, 8), Axis(0))
        parameters.add("qzeros", torch.int32, Axis(1, 8), Axis(0, group))
        parameters.add("scales", torch.float32, Axis(1), Axis(0, group))

    def unpack(self, layer: nn.Module) -> Integers:
        values, zeros, scales = (getattr(layer, name).data for name in ("qweight", "qzeros", "scales"))
        return Integers(_numbers(values), scales.T, _numbers(zeros))


def _numbers(words: Tensor) -> Tensor:
    """(rows, out / 8) int32 -> (out, rows) uint8."""
    numbers = unpack_words(words, BITS, 1).unflatten(1, (-1, 8))[:, :, list(PLACES)]
    return numbers.flatten(1).T.contiguous()


class AwqScheme(QuantScheme):
    """All layers of the blocks, but those that are named."""

    def __init__(self, group_size: int, skipped: Sequence[str]) -> None:
        self.group_size, self.skipped = group_size, (*skipped, UNQUANTISED)

    @classmethod
    def from_config(cls, quantization_config: Mapping[str, Any]) -> AwqScheme:
        if quantization_config.get("quant_method") != "awq":
            raise LaunchError("awq reads checkpoints that are quantised already", "leave --quantization out")
        bits = quantization_config.get("bits", quantization_config.get("w_bit"))
        if bits != BITS:
            raise LaunchError(f"awq: {bits} bits aren't supported", f"{BITS} are")
        version = str(quantization_config.get("version", "gemm")).lower()
        if version != "gemm":
            raise LaunchError(f"awq: the packing of version {version!r} isn't supported", "gemm is")
        if not quantization_config.get("zero_point", True):
            raise LaunchError("awq: weights without zero points aren't supported", "quantise with zero_point true")
        group_size = quantization_config.get("group_size", quantization_config.get("q_group_size"))
        if not isinstance(group_size, int):
            raise LaunchError(f"awq: group_size is {group_size!r}", "a number of input features, or -1 for all")
        return cls(group_size, quantization_config.get("modules_to_not_convert") or ())

    def linear(self, parts: Sequence[str], build: Build) -> LinearMethod | None:
        return None if is_skipped(parts, self.skipped) else AwqLinear(build, BITS, self.group_size)
