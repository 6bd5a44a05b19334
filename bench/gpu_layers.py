"""Weights of a layer in several formats, and its products: alone, and in a chain as a step has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gpu_timing import graph_us
from offline import SHAPES
from torch import Tensor

from sgcore.kernels import FLOAT8, Kernels

GROUP = 128
EPS = 1e-5
NAMES = ("qkv", "o", "gate and up", "down")


@dataclass(frozen=True)
class Weight:
    """A weight in the form that its operations take, and how many bytes they read."""

    moved: int
    suffix: str
    """Of the names of the operations of `Kernels`."""
    arguments: tuple[Any, ...]
    """Of these, behind the input's."""
    options: dict[str, Any]

    def linear(self, kernels: Kernels, x: Tensor) -> Tensor:
        return self._call(kernels, "linear", x)  # type: ignore[no-any-return]

    def normed(self, kernels: Kernels, x: Tensor, residual: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(kernels, "add_norm_linear", x, residual, norm, EPS)  # type: ignore[no-any-return]

    def gated(self, kernels: Kernels, x: Tensor, residual: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(kernels, "add_norm_gated", x, residual, norm, EPS)  # type: ignore[no-any-return]

    def _call(self, kernels: Kernels, name: str, *inputs: Any) -> Any:
        return getattr(kernels, name + self.suffix)(*inputs, *self.arguments, **self.options)


def bf16(kernels: Kernels, rows: int, size: int) -> Weight:
    weight = kernels.pack(torch.randn(rows, size, dtype=torch.bfloat16) / size**0.5)
    return Weight(weight.nbytes, "", (weight,), {})


def fp8(kernels: Kernels, rows: int, size: int) -> Weight:
    weight, scale = torch.randn(rows, size).to(FLOAT8), torch.rand(rows) / size**0.5
    return Weight(weight.nbytes, "_fp8", (weight, scale), {})


def fp8_blocks(kernels: Kernels, rows: int, size: int) -> Weight:
    weight = torch.randn(rows, size).to(FLOAT8)
    scale = torch.rand(-(-rows // GROUP), -(-size // GROUP)) / size**0.5
    return Weight(weight.nbytes, "_fp8", (weight, scale), {"block": (GROUP, GROUP)})


def integers(kernels: Kernels, rows: int, size: int, bits: int) -> Weight:
    weight = kernels.pack_int(torch.randint(0, 1 << bits, (rows, size), dtype=torch.uint8), bits)
    zeros = torch.randint(0, 1 << bits, (rows, size // GROUP), dtype=torch.uint8)
    scales, zeros = kernels.pack_scales((torch.rand(rows, size // GROUP) / 8 / size**0.5).half(), zeros, bits)
    return Weight(weight.nbytes + scales.nbytes, "_int", (weight, scales, zeros, bits), {})


KINDS: dict[str, Callable[[Kernels, int, int], Weight]] = {
    "bf16": bf16,
    "fp8": fp8,
    "fp8 blocks": fp8_blocks,
    "int8": partial(integers, bits=8),
    "int4": partial(integers, bits=4),
}


def layer_products(shape: str) -> dict[str, tuple[int, int]]:
    """(out, in) of each product of a layer."""
    config = SHAPES[shape]
    hidden, inner, head_dim = (config[key] for key in ("hidden_size", "intermediate_size", "head_dim"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    sizes = (
        ((heads + 2 * kv_heads) * head_dim, hidden),
        (hidden, heads * head_dim),
        (2 * inner, hidden),
        (hidden, inner),
    )
    return dict(zip(NAMES, sizes, strict=True))


class Layer:
    """The products of a decoder's layer, each waiting for the one before; attention is left out."""

    def __init__(self, kernels: Kernels, kind: str, shape: str) -> None:
        products = layer_products(shape)
        self.kernels = kernels
        self.qkv, self.o, self.gate_and_up, self.down = (KINDS[kind](kernels, *products[name]) for name in NAMES)
        self.norm = torch.ones(products["qkv"][1], dtype=torch.bfloat16)
        self.attended = products["o"][1]
        self.moved = sum(weight.moved for weight in (self.qkv, self.o, self.gate_and_up, self.down))

    def __call__(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens, hidden) twice, as the layer before returned them."""
        qkv, total = self.qkv.normed(self.kernels, x, residual, self.norm)
        attended = self.o.linear(self.kernels, qkv[:, : self.attended])
        gated, total = self.gate_and_up.gated(self.kernels, attended, total, self.norm)
        return self.down.linear(self.kernels, gated), total


def chain_us(layers: Sequence[Layer], tokens: int) -> float:
    """Microseconds of a layer in a step of so many tokens."""
    first = [torch.randn(tokens, len(layers[0].norm), dtype=torch.bfloat16) for _ in range(2)]

    def run() -> None:
        state = first[0], first[1]
        for layer in layers:
            state = layer(*state)

    return graph_us([run, run]) / len(layers)
