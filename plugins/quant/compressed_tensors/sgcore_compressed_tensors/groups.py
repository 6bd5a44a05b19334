"""`config_groups` of a compressed-tensors configuration: which layers get which numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgcore.errors import LaunchError

LINEAR = "Linear"
"""A target that means every linear layer; `re:` begins one that is a regular expression."""
SUPPORTED = "supported are float weights of 8 bits with float inputs of 8 bits, and int weights of 4 or 8 bits alone"


@dataclass(frozen=True)
class Group:
    """The numbers of some layers, as the configuration says them."""

    targets: tuple[str, ...]
    weights: Mapping[str, Any]
    inputs: Mapping[str, Any] | None

    @classmethod
    def from_config(cls, group: Mapping[str, Any]) -> Group:
        """Raises `LaunchError` for numbers that aren't supported."""
        weights, inputs = group.get("weights") or {}, group.get("input_activations")
        made = cls(tuple(group.get("targets") or ()), weights, inputs)
        if group.get("output_activations"):
            raise LaunchError("compressed-tensors: rounded outputs aren't supported", SUPPORTED)
        (made._check_float if made.is_float else made._check_int)()
        return made

    @property
    def is_float(self) -> bool:
        return bool(self.weights.get("type") == "float")

    @property
    def strategy(self) -> str:
        """What shares a scale. Without a word for it, a group where there is a size, and the tensor otherwise."""
        return str(self.weights.get("strategy") or ("group" if self.weights.get("group_size") else "tensor"))

    def _check_float(self) -> None:
        if self.weights.get("num_bits") != 8 or self.strategy not in ("tensor", "channel", "block"):
            raise _refused("weights", self.weights)
        if self.strategy == "block" and len(self.weights.get("block_structure") or ()) != 2:
            raise _refused("weights", self.weights)
        inputs = self.inputs or {}
        columns = self.weights["block_structure"][1] if self.strategy == "block" else None
        known = (
            [(True, "group", columns)] if self.strategy == "block" else [(True, "token", None), (False, "tensor", None)]
        )
        given = (bool(inputs.get("dynamic")), inputs.get("strategy"), inputs.get("group_size") if columns else None)
        is_float = inputs.get("num_bits") == 8 and inputs.get("type") == "float"
        if not is_float or given not in known:
            raise _refused("input_activations", self.inputs)

    def _check_int(self) -> None:
        if self.weights.get("type", "int") != "int" or self.weights.get("num_bits") not in (4, 8):
            raise _refused("weights", self.weights)
        if self.strategy not in ("group", "channel"):
            raise _refused("weights", self.weights)
        if self.inputs is not None:
            raise _refused("input_activations", self.inputs)

    def has(self, layer: str) -> bool:
        """Whether a layer is one of the targets."""
        return matches(layer, self.targets) or LINEAR in self.targets


def matches(layer: str, names: Sequence[str]) -> bool:
    """Whether a name, or a regular expression from its beginning, is the layer's."""
    return any(re.match(name[3:], layer) is not None if name.startswith("re:") else name == layer for name in names)


def _refused(what: str, numbers: Any) -> LaunchError:
    said = {key: value for key, value in (numbers or {}).items() if value is not None}
    return LaunchError(f"compressed-tensors: {what} {said or 'of none'} aren't supported", SUPPORTED)
