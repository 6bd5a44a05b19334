"""Tensors as the file has them: integers in groups of 32 with a scale and, for some types, a least value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from sgcore_gguf.architectures import LAYER_NAMES, TOP_NAMES, hf_name
from sgcore_gguf.header import Header, TensorInfo

GROUP = 32
FUSED = (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up"))
"""What models compute together: parts of different types are widened."""
OTHER = ("attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm")

Array = NDArray[Any]
Numbers = tuple[Array, Array, Array | None]
"""Integers (rows, blocks, numbers of a block) uint8, scales (rows, groups) float32, and what a group adds."""


def _q8_0(blocks: Array) -> Numbers:
    return blocks[..., 2:] ^ 0x80, _half(blocks, 0), None


def _q4_0(blocks: Array) -> Numbers:
    return _nibbles(blocks[..., 2:]), _half(blocks, 0), None


def _q4_1(blocks: Array) -> Numbers:
    return _nibbles(blocks[..., 4:]), _half(blocks, 0), _half(blocks, 2)


def _q4_k(blocks: Array) -> Numbers:
    """256 numbers in 8 groups, whose scales and least values are integers of 6 bits themselves."""
    rows = len(blocks)
    scales, least = quants.Q4_K.get_scale_min(blocks[..., 4:16].reshape(-1, 12))
    scales, least = (x.reshape(rows, -1, 8).astype(np.float32) for x in (scales, least))
    pairs = blocks[..., 16:].reshape(rows, -1, 4, GROUP)
    numbers = np.stack((pairs & 15, pairs >> 4), axis=3)
    wide = (_half(blocks, 0)[..., None] * scales).reshape(rows, -1)
    return numbers, wide, -(_half(blocks, 2)[..., None] * least).reshape(rows, -1)


def _q6_k(blocks: Array) -> Numbers:
    """256 numbers of 6 bits in 16 groups whose scales are integers of 8 bits themselves; 32 stands for 0."""
    rows, count, _ = blocks.shape
    fours = blocks[..., :128].reshape(rows, count, 2, 1, 64) >> np.array([0, 4], np.uint8)[:, None] & 15
    twos = blocks[..., 128:192].reshape(rows, count, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    numbers = fours.reshape(rows, count, 256) | twos.reshape(rows, count, 256) << 4
    scales = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8).astype(np.float32)
    return numbers + np.uint8(128 - 32), (_half(blocks, 208)[..., None] * scales).reshape(rows, -1), None


def _half(blocks: Array, at: int) -> Array:
    return np.ascontiguousarray(blocks[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float32)


def _nibbles(raw: Array) -> Array:
    """Half a block's numbers are in the low bits, then the others in the high ones."""
    *blocks, size = raw.shape
    numbers = np.empty((*blocks, 2 * size), np.uint8)
    np.bitwise_and(raw, 15, out=numbers[..., :size])
    np.right_shift(raw, 4, out=numbers[..., size:])
    return numbers


@dataclass(frozen=True)
class Kind:
    """A type that is multiplied as it is."""

    bits: int
    block_bytes: int
    read: Callable[[Array], Numbers]
    adds: bool = False
    """Whether a group has a number that is added."""
    group: int = GROUP


KINDS = {
    GGMLQuantizationType.Q8_0: Kind(8, 34, _q8_0),
    GGMLQuantizationType.Q4_0: Kind(4, 18, _q4_0),
    GGMLQuantizationType.Q4_1: Kind(4, 20, _q4_1, adds=True),
    GGMLQuantizationType.Q4_K: Kind(4, 144, _q4_k, adds=True),
    GGMLQuantizationType.Q6_K: Kind(8, 210, _q6_k, group=16),
}


def packed_layers(header: Header) -> dict[str, str]:
    """Hugging Face's names of the layers that are multiplied as they are, and their types."""
    found = {}
    for name, info in header.tensors.items():
        stem, _, part = name.removesuffix(".weight").rpartition(".")
        if info.kind not in KINDS or part in OTHER or not (part in LAYER_NAMES or TOP_NAMES.get(part) == "lm_head"):
            continue
        together = next((parts for parts in FUSED if part in parts), (part,))
        kinds = {header.tensors[f"{stem}.{other}.weight".removeprefix(".")].kind for other in together}
        layer = hf_name(name)
        if len(kinds) == 1 and layer is not None:
            found[layer.removesuffix(".weight")] = info.kind.name
    return found


def packed_tensors(raw: Array, info: TensorInfo) -> Mapping[str, Array]:
    """From a tensor's bytes: `values` (out, in) uint8, `scales` (out, groups) and, where the type adds, `zeros`."""
    kind = KINDS[info.kind]
    numbers, scales, added = kind.read(raw.reshape(info.shape[0], -1, kind.block_bytes))
    values = numbers.reshape(info.shape)
    if added is None:
        return {"values": values, "scales": scales}
    is_flat = scales == 0
    if is_flat.any():
        scales = np.where(is_flat, np.float32(1), scales)
        values = np.where(np.repeat(is_flat, GROUP, axis=1), np.uint8(0), values)
    return {"values": values, "scales": scales, "zeros": -added / scales}
