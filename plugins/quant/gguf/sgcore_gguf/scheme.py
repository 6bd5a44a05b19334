"""Layers that are multiplied by the file's own integers, where the device does that faster than with wide weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor, nn

from sgcore.api import Build, LinearMethod, QuantScheme
from sgcore.errors import LaunchError
from sgcore.layers.integer import IntegerLinear, Integers
from sgcore.layers.linear import DenseLinear
from sgcore.layers.parameters import Axis, LayerParameters, replace
from sgcore.layers.rounding import RoundedLinear
from sgcore_gguf.packed import GROUP, KINDS, Kind


class PackedLinear(IntegerLinear):
    """The tensors of `packed_tensors`."""

    def __init__(self, build: Build, kind: Kind) -> None:
        super().__init__(build, kind.bits, kind.group)
        self.kind, self.build = kind, build

    def register(self, parameters: LayerParameters, group: int) -> None:
        parameters.add("values", torch.uint8, Axis(0), Axis(1))
        parameters.add("scales", torch.float32, Axis(0), Axis(1, group))
        if self.kind.adds:
            parameters.add("zeros", torch.float32, Axis(0), Axis(1, group))

    def unpack(self, layer: nn.Module) -> Integers:
        zeros: Tensor | None = layer.zeros.data if self.kind.adds else None  # type: ignore[assignment]
        return Integers(layer.values.data, layer.scales.data, zeros)  # type: ignore[arg-type]

    def finish(self, layer: nn.Module) -> None:
        super().finish(layer)
        parts: Any = (layer.weight, layer.scales, layer.zeros)
        if self.kernels.multiplies_packed(parts[2], self.group):
            return
        wide = self.kernels.widen_int(*parts, self.bits)
        replace(layer, "weight", wide.to(self.build.dtype))
        replace(layer, "scales", None)
        replace(layer, "zeros", None)
        layer.method = DenseLinear(self.build)
        layer.method.finish(layer)


class GGUFScheme(QuantScheme):
    """`layers`: the type of each layer that is packed; `embedding`: that of the embedding."""

    def __init__(self, layers: Mapping[str, str], embedding: str) -> None:
        self.layers, self.embedding = layers, embedding

    @classmethod
    def from_config(cls, quantization_config: Mapping[str, Any]) -> GGUFScheme:
        if quantization_config.get("quant_method") != "gguf":
            raise LaunchError("gguf reads files that are quantised already", "leave --quantization out")
        return cls(quantization_config["layers"], quantization_config["embedding"])

    def linear(self, parts: Sequence[str], build: Build) -> LinearMethod | None:
        kinds = {self.layers.get(part) for part in parts}
        if len(kinds) > 1:
            raise LaunchError(f"gguf: {', '.join(parts)} are computed together and have different types")
        kind = kinds.pop()
        return None if kind is None else PackedLinear(build, KINDS[GGMLQuantizationType[kind]])

    def tied(self, build: Build) -> LinearMethod | None:
        """Rounding to 8 bits in the file's groups gives its Q8_0 back."""
        is_same = self.embedding == GGMLQuantizationType.Q8_0.name and build.kernels.multiplies_packed(None, GROUP)
        return RoundedLinear(build, 8, GROUP, is_lossless=True) if is_same else None
