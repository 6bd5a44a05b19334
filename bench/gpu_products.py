"""Products of a layer with weights of 16, 8 and 4 bits, against their floors: what has to be read, and multiplied.

Each time includes rounding the inputs. See README.md.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_timing import BYTES_PER_US, FLOP_PER_US, copies, graph_us
from harness import arguments, report
from offline import SHAPES
from torch import Tensor

from sgcore.kernels import FLOAT8, Kernels
from sgcore_cuda.kernels import CudaKernels

GROUP = 128
Product = Callable[[Tensor], Any]


def bf16(kernels: Kernels, rows: int, size: int) -> tuple[int, Product]:
    weight = kernels.pack(torch.randn(rows, size, dtype=torch.bfloat16) / size**0.5)
    return 2 * rows * size, lambda x: kernels.linear(x, weight)


def fp8(kernels: Kernels, rows: int, size: int) -> tuple[int, Product]:
    weight, scale = torch.randn(rows, size).to(FLOAT8), torch.rand(rows) / size**0.5
    return rows * size, lambda x: kernels.linear_fp8(x, weight, scale)


def fp8_blocks(kernels: Kernels, rows: int, size: int) -> tuple[int, Product]:
    weight = torch.randn(rows, size).to(FLOAT8)
    scale = torch.rand(-(-rows // GROUP), -(-size // GROUP)) / size**0.5
    return rows * size, lambda x: kernels.linear_fp8(x, weight, scale, block=(GROUP, GROUP))


def integers(kernels: Kernels, rows: int, size: int, bits: int) -> tuple[int, Product]:
    weight = kernels.pack_int(torch.randint(0, 1 << bits, (rows, size), dtype=torch.uint8), bits)
    zeros = torch.randint(0, 1 << bits, (rows, size // GROUP), dtype=torch.uint8)
    scales, zeros = kernels.pack_scales((torch.rand(rows, size // GROUP) / size**0.5).half(), zeros, bits)
    moved = weight.nbytes + scales.nbytes
    return moved, lambda x: kernels.linear_int(x, weight, scales, zeros, bits)


KINDS: dict[str, Callable[[Kernels, int, int], tuple[int, Product]]] = {
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
    return {
        "qkv": ((heads + 2 * kv_heads) * head_dim, hidden),
        "o": (hidden, heads * head_dim),
        "gate and up": (2 * inner, hidden),
        "down": (hidden, inner),
    }


def measure(kernels: Kernels, kind: str, rows: int, size: int, counts: list[int]) -> list[dict[str, Any]]:
    """Microseconds of the product at each number of tokens."""
    made = [KINDS[kind](kernels, rows, size)]
    made += [KINDS[kind](kernels, rows, size) for _ in range(min(copies(made[0][0]), 64) - 1)]
    moved = made[0][0]
    rate = FLOP_PER_US[FLOAT8 if kind.startswith("fp8") else torch.bfloat16]
    found = []
    for tokens in counts:
        x = torch.randn(tokens, size, dtype=torch.bfloat16)
        floor = max(moved / BYTES_PER_US, 2 * tokens * rows * size / rate)
        us = graph_us([partial(product, x) for _, product in made])
        found.append({"out": rows, "in": size, "kind": kind, "tokens": tokens, "us": us, "share of floor": floor / us})
    return found


def layer_sums(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All products of a layer together, by number of tokens."""
    sums: dict[tuple[int, str], float] = {}
    for row in found:
        key = row["tokens"], row["kind"]
        sums[key] = sums.get(key, 0.0) + row["us"]
    counts = sorted({tokens for tokens, _ in sums})
    kinds = list(dict.fromkeys(kind for _, kind in sums))
    return [{"tokens": tokens, **{f"{kind}, us": sums[tokens, kind] for kind in kinds}} for tokens in counts]


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama8b")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--tokens", default="1,4,16,64,128,256,1024,8192")
    return parser.parse_args()


def main() -> int:
    asked = parse()
    kernels = CudaKernels()
    torch.set_default_device("cuda")
    counts = [int(word) for word in asked.tokens.split(",")]
    found = []
    for kind in asked.kinds.split(","):
        for rows, size in layer_products(asked.shape).values():
            found += measure(kernels, kind, rows, size, counts)
            torch.cuda.empty_cache()
    report("gpu_products", {"All of a layer": layer_sums(found), "Products": found}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
