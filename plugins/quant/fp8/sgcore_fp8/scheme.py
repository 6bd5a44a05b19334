"""`quant_method: fp8`: weights with one scale, one for each row or one for each block; or any weights, at start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sgcore.api import Build, LinearMethod, QuantScheme
from sgcore.errors import LaunchError
from sgcore.kernels import Block
from sgcore.layers.float8 import Float8Linear, OnlineFloat8Linear
from sgcore.layers.skips import is_skipped

NAME = "fp8"
ACTIVATIONS = ("dynamic", "static")
UNQUANTISED = "lm_head"
"""The output projection is never quantised, whether the configuration says so or not."""
CACHE_SCALES = (".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".output_scale")
"""For keys and values of 8 bits, which are kept in the model's type here."""


class Fp8Scheme(QuantScheme):
    """E4M3 on both sides of a product."""

    def __init__(self, is_online: bool, is_static: bool, block: Block | None, skipped: Sequence[str]) -> None:
        self.is_online, self.is_static, self.block = is_online, is_static, block
        self.skipped = (*skipped, UNQUANTISED)

    @classmethod
    def from_config(cls, quantization_config: Mapping[str, Any]) -> Fp8Scheme:
        method = quantization_config.get("quant_method")
        if method not in (None, NAME):
            raise LaunchError(f"the checkpoint is quantised by {method}, not {NAME}", "leave --quantization out")
        activations = quantization_config.get("activation_scheme", "dynamic")
        if activations not in ACTIVATIONS:
            raise LaunchError(f"{NAME}: unknown activation_scheme {activations!r}", f"one of {', '.join(ACTIVATIONS)}")
        numbers = quantization_config.get("fmt", "e4m3")
        if numbers not in ("e4m3", "float8_e4m3fn"):
            raise LaunchError(f"{NAME}: numbers of the kind {numbers!r} aren't supported", "e4m3 is")
        block = _block(quantization_config.get("weight_block_size"))
        if block is not None and activations == "static":
            raise LaunchError(f"{NAME}: weight_block_size needs dynamic activations", "is the configuration complete?")
        skipped = [
            name for key in ("ignored_layers", "modules_to_not_convert") for name in quantization_config.get(key) or ()
        ]
        return cls(method is None, activations == "static", block, skipped)

    def linear(self, parts: Sequence[str], build: Build) -> LinearMethod | None:
        if is_skipped(parts, self.skipped):
            return None
        if self.is_online:
            return OnlineFloat8Linear(build)
        scale_name = "weight_scale" if self.block is None else "weight_scale_inv"
        return Float8Linear(build, self.block, self.is_static, scale_name)

    def is_unused(self, name: str, tensor: Tensor) -> bool:
        return name.endswith(CACHE_SCALES)


def _block(size: Any) -> Block | None:
    if size is None:
        return None
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise LaunchError(f"{NAME}: weight_block_size is {size!r}", "rows and columns, such as [128, 128]")
    return size[0], size[1]
