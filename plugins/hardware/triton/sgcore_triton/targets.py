"""Compile kernels for devices that are not there, and what a kernel may use on the device that is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}
"""Every architecture that the kernels must compile for."""

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def compile_for(
    target: str, kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any], **options: Any
) -> Any:
    """Compile `kernel` for one of `TARGETS`; no device is needed, and `TRITON_INTERPRET` must be unset.

    `signature` names the type of each argument that is not a constant, such as `*bf16`, `i32`, `fp32`; `i32:16` is an
    integer that 16 divides. Pointers are taken to be aligned to 16 bytes, as torch allocates them.
    """
    given = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(given.values())
        if kind.startswith("*") or kind.endswith(":16")
    }
    types = {name: kind.removesuffix(":16") for name, kind in given.items()}
    source = ASTSource(kernel, types, dict(constants), aligned)
    return triton.compile(source, target=TARGETS[target], options=options or None)


def interprets() -> bool:
    """Whether kernels run in Triton's interpreter, which takes tensors of the host."""
    return bool(triton.knobs.runtime.interpret)


def runs_here(x: Tensor) -> bool:
    """Whether a kernel can be launched on this tensor."""
    return x.is_cuda or interprets()


def has_ptx(x: Tensor) -> bool:
    """Whether a kernel may contain NVIDIA's assembler."""
    return x.is_cuda and torch.version.hip is None and not interprets()


@cache
def _has_dependent_launch(device: int) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


def has_dependent_launch(x: Tensor) -> bool:
    """Whether a kernel may start while its predecessor ends (programmatic dependent launch, sm_90 and newer)."""
    return x.is_cuda and not interprets() and _has_dependent_launch(x.device.index)


@cache
def _has_float8(device: int) -> bool:
    if torch.version.hip is not None:
        return "gfx95" in str(torch.cuda.get_device_properties(device).gcnArchName)
    return torch.cuda.get_device_capability(device) >= (8, 9)


def has_float8(x: Tensor) -> bool:
    """Whether the matrix units multiply E4M3 numbers."""
    return interprets() or (x.is_cuda and _has_float8(x.device.index))
