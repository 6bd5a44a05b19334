"""Layers are repacked as soon as they are whole, so that no more than one of them is in memory twice."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from sgcore.layers.linear import Embedding, Linear
from sgcore.layers.parameters import PartedParameter
from sgcore.weights.kept import APART, KeptLayers, is_kept

Slot = tuple[int, int]
"""A parameter's id and one of its parts."""


class Finishing:
    """A model's layers that are not finished yet, and what each of them waits for."""

    def __init__(self, model: nn.Module, kept: KeptLayers | None = None) -> None:
        self.kept = kept
        self.layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear | Embedding)}
        self._awaited: dict[str, set[Slot]] = {}
        self._waiting: dict[Slot, list[str]] = defaultdict(list)
        for name, layer in self.layers.items():
            self._awaited[name] = {slot for parameter in layer.parameters() for slot in slots(parameter)}
            for slot in self._awaited[name]:
                self._waiting[slot].append(name)

    def fill(self, slot: Slot) -> list[str]:
        """Note that a part has its values. Returns the names of parameters whose layers were finished for it."""
        loaded = []
        for name in self._waiting.pop(slot, ()):
            awaited = self._awaited.get(name)
            if awaited is None:
                continue
            awaited.discard(slot)
            if not awaited:
                loaded += [f"{name}.{parameter}" for parameter, _ in self.layers[name].named_parameters()]
                self.finish(name)
        return loaded

    def restore(self, device: torch.device) -> list[str]:
        """Take the layers that were kept. Returns the names of parameters that nobody has to load for them."""
        loaded: list[str] = []
        if self.kept is None or not self.kept.exists:
            return loaded
        for name, layer in list(self.layers.items()):
            own = [parameter for parameter, _ in layer.named_parameters() if parameter != APART]
            if is_kept(layer) and self.kept.read(name, layer, device):
                del self.layers[name], self._awaited[name]
                loaded += [f"{name}.{parameter}" for parameter in own if isinstance(layer, Linear)]
        return loaded

    def finish(self, name: str) -> None:
        """Repack a layer."""
        del self._awaited[name]
        layer = self.layers.pop(name)
        layer.finish()
        if self.kept is not None and is_kept(layer):
            self.kept.write(name, layer.stored)

    def finish_all(self) -> None:
        """Repack what is left: layers whose checkpoint leaves out what it may."""
        for name in list(self.layers):
            self.finish(name)


def slots(parameter: Tensor) -> list[Slot]:
    """A parameter's parts."""
    parts = len(parameter.part_entries) if isinstance(parameter, PartedParameter) else 1
    return [(id(parameter), index) for index in range(parts)]
