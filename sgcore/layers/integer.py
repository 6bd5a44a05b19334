"""Weights of 4 or 8 bits in groups that share a scale and a zero point: what all such formats become after loading."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sgcore.api import Build, LinearMethod
from sgcore.errors import LaunchError
from sgcore.kernels import PACK_BLOCK
from sgcore.layers.norm import RMSNorm
from sgcore.layers.parameters import LayerParameters, replace


@dataclass(frozen=True)
class Integers:
    """A layer's weight as its format says it, unpacked."""

    values: Tensor
    """(out, in) uint8."""
    scales: Tensor
    """(out, groups)."""
    zeros: Tensor | None = None
    """(out, groups) uint8, or float32 where it is no integer: what stands for 0; None: the middle of the range."""
    groups: Tensor | None = None
    """(parts, in): the group of each input feature, for each fused part; None: consecutive features."""


class IntegerLinear(LinearMethod):
    """A format says which tensors it has and how to unpack them; the product is `Kernels.linear_int`."""

    def __init__(self, build: Build, bits: int, group_size: int) -> None:
        """A `group_size` of -1 means all input features."""
        self.kernels, self.device, self.bits, self.group_size = build.kernels, build.device, bits, group_size

    @abstractmethod
    def register(self, parameters: LayerParameters, group: int) -> None:
        """Add the format's tensors, with groups of so many input features."""

    @abstractmethod
    def unpack(self, layer: nn.Module) -> Integers:
        """Read the loaded tensors."""

    def create(self, layer: nn.Module, in_features: int, out_features: Sequence[int]) -> None:
        group = in_features if self.group_size == -1 else self.group_size
        block = PACK_BLOCK * 4 // self.bits
        if group <= 0 or group % block:
            raise LaunchError(
                f"groups of {group} input features of {self.bits} bits aren't supported",
                f"group_size has to be a multiple of {block}",
            )
        self.group, self.part_sizes = group, tuple(out_features)
        self.register(LayerParameters(layer, in_features, out_features, self.device), group)

    def finish(self, layer: nn.Module) -> None:
        read = self.unpack(layer)
        for name in [name for name, _ in layer.named_parameters(recurse=False) if name != "bias"]:
            delattr(layer, name)
        values, order = self._in_order(read)
        for name, tensor in self._packed(values, read, order is not None and len(order) > 1).items():
            replace(layer, name, tensor)
        replace(layer, "order", order)

    def _packed(self, values: Tensor, read: Integers, is_apart: bool) -> dict[str, Tensor | None]:
        """`weight`, `scales` and `zeros`; `is_apart`: parts will be multiplied one by one."""
        sizes = list(self.part_sizes) if is_apart else [len(values)]
        offsets = [None] * len(sizes) if read.zeros is None else torch.split(read.zeros, sizes)
        weights = [self.kernels.pack_int(part, self.bits) for part in torch.split(values, sizes)]
        pairs = zip(torch.split(read.scales, sizes), offsets, strict=True)
        packed = [self.kernels.pack_scales(*pair, self.bits) for pair in pairs]
        scales, zeros = (_joined(parts) for parts in zip(*packed, strict=True))
        return {"weight": _joined(weights), "scales": scales, "zeros": zeros}

    def _in_order(self, read: Integers) -> tuple[Tensor, Tensor | None]:
        """The values with each group's features together, and the order (parts, in) of the features that this takes.

        Parts of one order need a single row of it.
        """
        plain = torch.arange(read.values.shape[1], device=read.values.device) // self.group
        if read.groups is None or bool((read.groups == plain).all()):
            return read.values, None
        order = read.groups.argsort(dim=1, stable=True)
        if not bool((read.groups.gather(1, order) == plain).all()):
            raise LaunchError(
                f"an order of input features whose groups don't have {self.group} features each isn't supported",
                "the checkpoint is damaged, or group_size is another",
            )
        parts = torch.split(read.values, list(self.part_sizes))
        values = torch.cat([part[:, row] for part, row in zip(parts, order, strict=True)])
        return values, order[:1] if bool((order == order[0]).all()) else order

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        order: Tensor | None = layer.order  # type: ignore[assignment]
        if order is None:
            return self._product(layer, x, bias)
        if len(order) == 1:
            return self._product(layer, x.index_select(1, order[0]), bias)
        outputs, begin = [], 0
        for row, size in zip(order, self.part_sizes, strict=True):
            outputs.append(self._product(layer, x.index_select(1, row), bias, slice(begin, begin + size)))
            begin += size
        return torch.cat(outputs, dim=1)

    def apply_normed(
        self, layer: nn.Module, norm: RMSNorm, x: Tensor, residual: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if layer.order is not None:
            return super().apply_normed(layer, norm, x, residual, bias)
        weight, scales, zeros = self._stored(layer)
        return self.kernels.add_norm_linear_int(
            x, residual, norm.weight, norm.eps, weight, scales, zeros, self.bits, bias
        )

    def apply_gated(
        self, layer: nn.Module, norm: RMSNorm, x: Tensor, residual: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        order: Tensor | None = layer.order  # type: ignore[assignment]
        weight, scales, zeros = self._stored(layer)
        if order is None:
            return self.kernels.add_norm_gated_int(
                x, residual, norm.weight, norm.eps, weight, scales, zeros, self.bits, bias
            )
        if len(order) > 1:
            return super().apply_gated(layer, norm, x, residual, bias)
        normed, total = norm.add(x, residual)
        ordered = normed.index_select(1, order[0])
        return self.kernels.gated_int(ordered, weight, scales, zeros, self.bits, bias), total

    def _stored(self, layer: nn.Module) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weight, scales, and zeros where they are apart."""
        return layer.weight, layer.scales, layer.zeros  # type: ignore[return-value]

    def _product(self, layer: nn.Module, x: Tensor, bias: Tensor | None, rows: slice | None = None) -> Tensor:
        taken: list[Any] = [*self._stored(layer), bias]
        if rows is not None:
            taken = [None if tensor is None else tensor[rows] for tensor in taken]
        return self.kernels.linear_int(x, taken[0], taken[1], taken[2], self.bits, taken[3])


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    given = [part for part in parts if part is not None]
    return torch.cat(given) if len(given) > 1 else parts[0]


def unpack_words(words: Tensor, bits: int, dim: int) -> Tensor:
    """int32 words -> uint8 numbers, the lowest bits first; `dim` grows by the numbers in a word."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
    numbers = (words.unsqueeze(dim + 1) >> shifts.view(-1, *[1] * (words.dim() - dim - 1))) & ((1 << bits) - 1)
    return numbers.to(torch.uint8).flatten(dim, dim + 1)
