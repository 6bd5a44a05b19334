"""Checkpoints by round-to-nearest: a folder of float32 weights written in a quantised format.

Each function takes a weight (out, in) and gives the checkpoint's tensors, and the weight that they stand for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Pack = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]
GROUP = 64
"""The sample model's hidden size, 576, isn't a multiple of 128."""
AWQ_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)


def awq(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """4 bits with zero points."""
    groups = weight.T.unflatten(0, (-1, GROUP))
    low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round()
    numbers, wide = _rounded(groups, scales, zeros, 15)
    order = [block + place for block in range(0, numbers.shape[1], 8) for place in AWQ_OUTPUTS]
    tensors = {"qweight": _words(numbers[:, order].T, 4).T, "qzeros": _words(zeros.int()[:, order].T, 4).T}
    return tensors | {"scales": scales.half()}, wide


def gptq(bits: int) -> Pack:
    """Symmetric, groups of consecutive features, zero points stored less one."""

    def pack(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        groups, most = weight.T.unflatten(0, (-1, GROUP)), (1 << bits) - 1
        scales = (groups.abs().amax(1) * 2 / most).half().float()
        zeros = torch.full_like(scales, 1 << (bits - 1))
        numbers, wide = _rounded(groups, scales, zeros, most)
        tensors = {"qweight": _words(numbers, bits), "qzeros": _words(zeros.int().T - 1, bits).T}
        order = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
        return tensors | {"scales": scales.half(), "g_idx": order}, wide

    return pack


def _rounded(groups: Tensor, scales: Tensor, zeros: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """(in, out) int32 from (groups, size, out); and what they stand for, (out, in)."""
    numbers = (groups / scales[:, None] + zeros[:, None]).round().clamp(0, most)
    wide = (numbers - zeros[:, None]) * scales[:, None]
    return numbers.int().flatten(0, 1), wide.flatten(0, 1).T


def _words(numbers: Tensor, bits: int) -> Tensor:
    """(n, columns) -> int32 (n bits / 32, columns), the first of a word in its lowest bits."""
    shifts = torch.arange(0, 32, bits).view(1, -1, 1)
    return (numbers.long().unflatten(0, (-1, 32 // bits)) << shifts).sum(1).to(torch.int32)


def write(source: Path, folder: Path, pack: Pack, config: Mapping[str, Any] | None) -> Path:
    """Every layer of the decoder's blocks through `pack`; without a configuration, what its tensors stand for."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    tensors = load_file(source / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        packed, wide = pack(tensors.pop(name))
        stem = name.removesuffix("weight")
        tensors |= {name: wide} if config is None else {stem + key: tensor for key, tensor in packed.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": config}))
    return folder
