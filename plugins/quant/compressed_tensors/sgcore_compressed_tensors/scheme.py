"""`quant_method: compressed-tensors`: groups of layers, each with numbers of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sgcore.api import Build, LinearMethod, QuantScheme
from sgcore.errors import LaunchError
from sgcore.layers.float8 import Float8Linear
from sgcore.layers.skips import agree
from sgcore_compressed_tensors.groups import Group, matches
from sgcore_compressed_tensors.packed import PackedLinear

NAME = "compressed-tensors"
FORMATS = ("float-quantized", "naive-quantized", "pack-quantized", "mixed-precision")
COMPRESSED = ("compressed", "frozen")
CACHE_SCALES = (".k_scale", ".v_scale", ".q_scale", ".output_scale")
"""For keys and values of 8 bits, which are kept in the model's type here."""


class CompressedTensorsScheme(QuantScheme):
    """The first group that has a layer says its numbers; a layer of no group, or to be ignored, stays as it is."""

    def __init__(self, groups: Sequence[Group], ignored: Sequence[str]) -> None:
        self.groups, self.ignored = tuple(groups), tuple(ignored)

    @classmethod
    def from_config(cls, quantization_config: Mapping[str, Any]) -> CompressedTensorsScheme:
        if quantization_config.get("quant_method") != NAME:
            raise LaunchError(f"{NAME} reads checkpoints that are quantised already", "leave --quantization out")
        stored = quantization_config.get("format")
        if stored not in FORMATS:
            raise LaunchError(f"{NAME}: the format {stored!r} isn't supported", f"one of {', '.join(FORMATS)}")
        status = quantization_config.get("quantization_status", COMPRESSED[0])
        if status not in COMPRESSED:
            raise LaunchError(f"{NAME}: the weights aren't compressed, but {status!r}", "save the model compressed")
        sparsity = (quantization_config.get("sparsity_config") or {}).get("format", "dense")
        if sparsity != "dense":
            raise LaunchError(f"{NAME}: sparse weights ({sparsity}) aren't supported", "dense ones are")
        groups = [Group.from_config(group) for group in (quantization_config.get("config_groups") or {}).values()]
        if not groups:
            raise LaunchError(f"{NAME}: the configuration has no config_groups", "is it complete?")
        return cls(groups, quantization_config.get("ignore") or ())

    def linear(self, parts: Sequence[str], build: Build) -> LinearMethod | None:
        found = [self._group(part) for part in parts]
        if agree(parts, [group is None for group in found]):
            return None
        group = found[0]
        assert group is not None
        if any(other != group for other in found):
            raise LaunchError(f"{NAME}: {', '.join(parts)} are computed together and have different numbers")
        return _method(group, build)

    def _group(self, part: str) -> Group | None:
        if matches(part, self.ignored):
            return None
        return next((group for group in self.groups if group.has(part)), None)

    def is_unused(self, name: str, tensor: Tensor) -> bool:
        return name.endswith(CACHE_SCALES)


def _method(group: Group, build: Build) -> LinearMethod:
    weights = group.weights
    if group.is_float:
        block = tuple(weights["block_structure"]) if group.strategy == "block" else None
        return Float8Linear(build, block, not (group.inputs or {}).get("dynamic"))
    size = int(weights["group_size"]) if group.strategy == "group" else -1
    is_symmetric = bool(weights.get("symmetric", True))
    return PackedLinear(build, int(weights["num_bits"]), size, is_symmetric, weights.get("actorder") in ("group", True))
