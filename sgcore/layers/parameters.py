"""Parameters that know where the checkpoint's tensors lie in them.

A fused layer has one parameter for the tensors of several checkpoint layers, its parts. Formats lay features out along
different dimensions, pack several into one entry or keep one entry for a block of them; a parameter says so once, and
whoever fills or shards it only asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sgcore.errors import LaunchError


@dataclass(frozen=True)
class Axis:
    """The dimension of a part's tensor along which features lie, and how many of them one entry stands for."""

    dim: int
    features: int = 1
    rounds_up: bool = False
    """Whether the last entry may stand for fewer."""

    def entries(self, features: int, what: str) -> int:
        """Entries for so many features; raises `LaunchError` where they don't come out even."""
        if features % self.features and not self.rounds_up:
            raise LaunchError(
                f"{what}: {features} can't be divided by {self.features}", "the quantization doesn't fit this layer"
            )
        return -(-features // self.features)


class PartedParameter(nn.Parameter):
    """A layer's parameter that is filled in parts. Made by `LayerParameters.add`."""

    output: Axis | None
    """Where output features lie, the parts behind one another; None: parts are stacked along dimension 0."""
    input: Axis | None
    """Where input features lie; None: the tensor knows nothing of them."""
    part_entries: tuple[int, ...]
    is_optional: bool
    """Whether a checkpoint may leave it out; what it was made with stays."""
    is_structure: bool
    """Whether it says how others are read, so that random values would mean nothing."""
    spreads: bool
    """Whether one number stands for all entries of a part."""

    def part(self, index: int) -> Tensor:
        """The view that the checkpoint's tensor of one part fills."""
        if self.output is None:
            return self.data[index]
        return self.data.narrow(self.output.dim, sum(self.part_entries[:index]), self.part_entries[index])

    def fit(self, tensor: Tensor, into: Tensor) -> Tensor | None:
        """`tensor` in the shape of `into`, the whole parameter or a part; None: it doesn't fit."""
        if tensor.shape == into.shape:
            return tensor
        if tensor.numel() == 1 and (self.spreads or into.numel() == 1):
            return tensor.reshape(()).expand(into.shape)
        if [size for size in tensor.shape if size > 1] == [size for size in into.shape if size > 1]:
            return tensor.reshape(into.shape)
        if self.output is None and tensor.shape == into.shape[1:]:
            return tensor.expand(into.shape)
        return None


class LayerParameters:
    """Registers a layer's parameters; `out_features` has one entry for each fused part."""

    def __init__(self, layer: nn.Module, in_features: int, out_features: Sequence[int], device: torch.device) -> None:
        self.layer, self.in_features, self.out_features, self.device = layer, in_features, tuple(out_features), device

    def add(
        self,
        name: str,
        dtype: torch.dtype,
        output: Axis | None = None,
        input: Axis | None = None,
        initial: Tensor | None = None,
        *,
        is_optional: bool = False,
        spreads: bool = False,
    ) -> None:
        """Register `name`, its shape given by the axes; raises `LaunchError` where sizes don't come out even.

        Without an output axis each part has a tensor of its own, in the shape of `initial` where there is one.
        """
        entries = (1,) * len(self.out_features) if output is None else self._entries(name, output)
        sizes = {} if input is None else {input.dim: input.entries(self.in_features, f"{name}, input features")}
        if output is not None:
            sizes[output.dim] = sum(entries)
        shape = tuple(sizes[dim] for dim in sorted(sizes))
        if output is None:
            shape = (len(entries), *(shape if initial is None else initial.shape))
        data = torch.empty(shape, dtype=dtype, device=self.device)
        if initial is not None:
            data.copy_(initial)
        parameter = PartedParameter(data, requires_grad=False)
        parameter.output, parameter.input, parameter.part_entries = output, input, entries
        parameter.is_optional, parameter.is_structure = is_optional, initial is not None
        parameter.spreads = spreads
        setattr(self.layer, name, parameter)

    def _entries(self, name: str, output: Axis) -> tuple[int, ...]:
        return tuple(output.entries(features, f"{name}, output features") for features in self.out_features)


def replace(layer: nn.Module, name: str, tensor: Tensor | None) -> None:
    """Give a loaded parameter the layout that the device reads; None: drop it."""
    setattr(layer, name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))
