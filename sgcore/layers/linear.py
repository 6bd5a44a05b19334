"""Linear layers: a model names what is fused, a `LinearMethod` decides how the weight is stored and multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from sgcore.api import Build, LinearMethod
from sgcore.layers.norm import RMSNorm
from sgcore.layers.parameters import Axis, LayerParameters


class DenseLinear(LinearMethod):
    """The weight as it is, in the model's type."""

    def __init__(self, build: Build) -> None:
        self.kernels, self.dtype, self.device = build.kernels, build.dtype, build.device

    def create(self, layer: nn.Module, in_features: int, out_features: Sequence[int]) -> None:
        parameters = LayerParameters(layer, in_features, out_features, self.device)
        parameters.add("weight", self.dtype, output=Axis(0), input=Axis(1))

    def finish(self, layer: nn.Module) -> None:
        layer.weight = nn.Parameter(self.kernels.pack(layer.weight.data), requires_grad=False)  # type: ignore[arg-type]

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        return self.kernels.linear(x, layer.weight, bias)  # type: ignore[arg-type]

    def apply_normed(
        self, layer: nn.Module, norm: RMSNorm, x: Tensor, residual: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return self.kernels.add_norm_linear(x, residual, norm.weight, norm.eps, layer.weight, bias)  # type: ignore[arg-type]

    def apply_gated(
        self, layer: nn.Module, norm: RMSNorm, x: Tensor, residual: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return self.kernels.add_norm_gated(x, residual, norm.weight, norm.eps, layer.weight, bias)  # type: ignore[arg-type]


def choose_method(build: Build, name: str) -> LinearMethod:
    """The scheme's method for a layer, asked with the checkpoint's names of what is fused in it."""
    parent, _, stem = name.rpartition(".")
    parts = tuple(f"{parent}.{part}".removeprefix(".") for part in build.packed.get(stem, (stem,)))
    method = build.scheme.linear(parts, build) if build.scheme else None
    return method or DenseLinear(build)


class Linear(nn.Module):
    """(tokens, in) -> (tokens, sum of parts). `part_sizes` are the rows of each fused checkpoint tensor."""

    def __init__(self, build: Build, in_features: int, parts: int | Sequence[int], bias: bool = False, name: str = ""):
        super().__init__()
        self.part_sizes = (parts,) if isinstance(parts, int) else tuple(parts)
        self.method = choose_method(build, name)
        self.method.create(self, in_features, self.part_sizes)
        self.bias: nn.Parameter | None = None
        if bias:
            parameters = LayerParameters(self, in_features, self.part_sizes, build.device)
            parameters.add("bias", build.dtype, output=Axis(0))

    def finish(self) -> None:
        """Let the method repack the loaded weight for the device."""
        self.method.finish(self)

    @property
    def stored(self) -> nn.Module:
        """The module with the method's parameters."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.method.apply(self, x, self.bias)

    def normed(self, norm: RMSNorm, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """The product with the normed sum of x and residual, and the sum."""
        return self.method.apply_normed(self, norm, x, residual, self.bias)

    def gated(self, norm: RMSNorm, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `normed`, then silu of the first part times the second; and the sum."""
        return self.method.apply_gated(self, norm, x, residual, self.bias)


class Embedding(nn.Module):
    """Token embedding; it is the output projection too where the two are tied."""

    def __init__(self, build: Build, vocab_size: int, hidden: int, is_tied: bool = False) -> None:
        super().__init__()
        self.kernels, self.is_tied = build.kernels, is_tied
        self.method = (build.scheme.tied(build) if build.scheme else None) or DenseLinear(build)
        self.weight = nn.Parameter(
            torch.empty(vocab_size, hidden, dtype=build.dtype, device=build.device), requires_grad=False
        )

    def finish(self) -> None:
        """Let the method repack a tied weight for the projection; the lookup goes on reading it as it is."""
        if self.is_tied:
            self.stored.weight.data = self.weight.data
            self.method.finish(self.stored)

    @cached_property
    def stored(self) -> nn.Module:
        """The module with the method's parameters: those of the projection, where the two are tied.

        They are no parameters of the model's: where nothing is repacked they are the same memory.
        """
        output = nn.Module()
        rows, size = self.weight.shape
        self.method.create(output, size, (rows,))
        return output

    def forward(self, ids: Tensor) -> Tensor:
        return self.kernels.embedding(ids, self.weight)

    def project(self, hidden: Tensor) -> Tensor:
        """(rows, hidden) -> (rows, vocabulary) with the embedding's own weight."""
        return self.method.apply(self.stored, hidden, None)


def product_weights(model: nn.Module) -> list[Tensor]:
    """The parameters of all products, in the order of the model; a lookup's table is none."""
    layers = (module for module in model.modules() if isinstance(module, Linear | Embedding))
    read = (layer.stored for layer in layers if isinstance(layer, Linear) or layer.is_tied)
    return [parameter for stored in read for parameter in stored.parameters()]
