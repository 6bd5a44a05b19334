"""`--quantization int8` and `int4`: the weights of any checkpoint, rounded to integers in groups when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sgcore.api import Build, LinearMethod, QuantScheme
from sgcore.errors import LaunchError
from sgcore.layers.rounding import RoundedLinear

LARGEST_GROUP = {8: 64, 4: 32}
"""Input features that share a scale, by bits."""
OUTPUT = "lm_head"
"""It is the layer that suffers most, and gets 8 bits."""


class RoundedScheme(QuantScheme):
    """Every layer."""

    bits: ClassVar[int]

    @classmethod
    def from_config(cls, quantization_config: Mapping[str, Any]) -> RoundedScheme:
        if quantization_config:
            method = quantization_config.get("quant_method")
            raise LaunchError(f"the checkpoint is quantised already, by {method}", "leave --quantization out")
        return cls()

    def linear(self, parts: Sequence[str], build: Build) -> LinearMethod | None:
        return self._method(build, 8 if parts[0].endswith(OUTPUT) else self.bits)

    def tied(self, build: Build) -> LinearMethod | None:
        return self._method(build, 8)

    def _method(self, build: Build, bits: int) -> LinearMethod:
        return RoundedLinear(build, bits, LARGEST_GROUP[bits])


class Int8Scheme(RoundedScheme):
    """8 bits in groups of 64 features."""

    bits = 8


class Int4Scheme(RoundedScheme):
    """4 bits in groups of 32 features, with zero points."""

    bits = 4
