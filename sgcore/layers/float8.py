"""Weights and inputs of 8-bit floats (E4M3): what all such formats become after loading."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sgcore.api import Build, LinearMethod
from sgcore.kernels import FLOAT8, Block
from sgcore.layers.norm import RMSNorm
from sgcore.layers.parameters import Axis, LayerParameters, replace


class Float8Linear(LinearMethod):
    """`weight` with a scale for all of a part, for each row or for each block; inputs rounded by a scale too.

    A scale for a part and one for each row are stored alike. Inputs get the checkpoint's `input_scale` (`is_static`),
    or a scale for each token, or for each token and a block's columns.
    """

    def __init__(
        self, build: Build, block: Block | None = None, is_static: bool = False, scale_name: str = "weight_scale"
    ) -> None:
        self.kernels, self.device = build.kernels, build.device
        self.block, self.is_static, self.scale_name = block, is_static, scale_name

    def create(self, layer: nn.Module, in_features: int, out_features: Sequence[int]) -> None:
        self.part_sizes = tuple(out_features)
        parameters = LayerParameters(layer, in_features, out_features, self.device)
        parameters.add("weight", FLOAT8, Axis(0), Axis(1))
        if self.block is None:
            parameters.add(self.scale_name, torch.float32, Axis(0), spreads=True)
        else:
            rows, columns = self.block
            axes = Axis(0, rows, rounds_up=True), Axis(1, columns, rounds_up=True)
            parameters.add(self.scale_name, torch.float32, *axes)
        if self.is_static:
            parameters.add("input_scale", torch.float32)

    def finish(self, layer: nn.Module) -> None:
        scale: Tensor = getattr(layer, self.scale_name).data
        delattr(layer, self.scale_name)
        if self.block is not None and any(size % self.block[0] for size in self.part_sizes[:-1]):
            scale, self.block = self._by_row(scale, self.block), (1, self.block[1])
        replace(layer, "weight_scale", scale)
        given: Tensor | None = layer.input_scale.data if self.is_static else None  # type: ignore[assignment]
        if given is not None and bool((given == given[0]).all()):
            given = given[:1]
        replace(layer, "input_scale", given)

    def _by_row(self, scale: Tensor, block: Block) -> Tensor:
        """Blocks that begin anew with each part don't lie on one grid: give each row its own scales."""
        entries = [-(-size // block[0]) for size in self.part_sizes]
        parts = zip(torch.split(scale, entries), self.part_sizes, strict=True)
        return torch.cat([part.repeat_interleave(block[0], 0)[:size] for part, size in parts])

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        weight, scale, given = self._stored(layer)
        if given is None or len(given) == 1:
            return self.kernels.linear_fp8(x, weight, scale, bias, self.block, given)
        outputs, begin = [], 0
        for part, size in enumerate(self.part_sizes):
            rows = slice(begin, begin + size)
            own = None if bias is None else bias[rows]
            outputs.append(self.kernels.linear_fp8(x, weight[rows], scale[rows], own, None, given[part : part + 1]))
            begin += size
        return torch.cat(outputs, dim=1)

    def apply_normed(
        self, layer: nn.Module, norm: RMSNorm, x: Tensor, residual: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        weight, scale, given = self._stored(layer)
        if given is not None and len(given) > 1:
            return super().apply_normed(layer, norm, x, residual, bias)
        return self.kernels.add_norm_linear_fp8(
            x, residual, norm.weight, norm.eps, weight, scale, bias, self.block, given
        )

    def apply_gated(
        self, layer: nn.Module, norm: RMSNorm, x: Tensor, residual: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        weight, scale, given = self._stored(layer)
        if given is not None and len(given) > 1:
            return super().apply_gated(layer, norm, x, residual, bias)
        return self.kernels.add_norm_gated_fp8(
            x, residual, norm.weight, norm.eps, weight, scale, bias, self.block, given
        )

    def _stored(self, layer: nn.Module) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weight, its scale, and the inputs' scales where the checkpoint has them."""
        return layer.weight, layer.weight_scale, layer.input_scale  # type: ignore[return-value]


class OnlineFloat8Linear(Float8Linear):
    """A weight of more bits that is rounded after loading, with a scale for each row."""

    is_cacheable = True

    def __init__(self, build: Build) -> None:
        super().__init__(build)
        self.dtype = build.dtype

    def create(self, layer: nn.Module, in_features: int, out_features: Sequence[int]) -> None:
        self.part_sizes = tuple(out_features)
        LayerParameters(layer, in_features, out_features, self.device).add("weight", self.dtype, Axis(0), Axis(1))

    def finish(self, layer: nn.Module) -> None:
        quantised, scale = self.kernels.quantize_fp8(layer.weight.data)  # type: ignore[arg-type]
        replace(layer, "weight", quantised)
        replace(layer, "weight_scale", scale.flatten())
        replace(layer, "input_scale", None)
