"""Products of a layer with weights of 16, 8 and 4 bits, against their floors: what has to be read, and multiplied.

Each time includes rounding the inputs. See README.md.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from functools import partial
from typing import Any

import torch
from gpu_layers import KINDS, Layer, chain_us, layer_products
from gpu_timing import BYTES_PER_US, FLOP_PER_US, copies, graph_us
from harness import arguments, report
from offline import SHAPES

from sgcore.kernels import FLOAT8, Kernels
from sgcore_cuda.kernels import CudaKernels

MOST_LAYERS = 4
"""Of a chain: their weights of 4 bits are larger than the cache."""
MOST_CHAINED = 64
"""Tokens."""


def measure(kernels: Kernels, kind: str, rows: int, size: int, counts: list[int]) -> list[dict[str, Any]]:
    """Microseconds of the product at each number of tokens."""
    made = [KINDS[kind](kernels, rows, size)]
    moved = made[0].moved
    made += [KINDS[kind](kernels, rows, size) for _ in range(min(copies(moved), 64) - 1)]
    rate = FLOP_PER_US[FLOAT8 if kind.startswith("fp8") else torch.bfloat16]
    found = []
    for tokens in counts:
        x = torch.randn(tokens, size, dtype=torch.bfloat16)
        floor = max(moved / BYTES_PER_US, 2 * tokens * rows * size / rate)
        us = graph_us([partial(weight.linear, kernels, x) for weight in made])
        found.append({"out": rows, "in": size, "kind": kind, "tokens": tokens, "us": us, "share of floor": floor / us})
    return found


def chained(kernels: Kernels, kind: str, shape: str, counts: list[int]) -> list[dict[str, Any]]:
    """Microseconds of a layer whose products wait for each other, with its norms and its gate."""
    layers = [Layer(kernels, kind, shape) for _ in range(MOST_LAYERS)]
    floor = layers[0].moved / BYTES_PER_US
    return [
        {"kind": kind, "tokens": tokens, "us": us, "floor, us": floor}
        for tokens in counts
        if tokens <= MOST_CHAINED
        for us in [chain_us(layers, tokens)]
    ]


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
    found, chains = [], []
    for kind in asked.kinds.split(","):
        chains += chained(kernels, kind, asked.shape, counts)
        torch.cuda.empty_cache()
        for rows, size in layer_products(asked.shape).values():
            found += measure(kernels, kind, rows, size, counts)
            torch.cuda.empty_cache()
    tables = {"All of a layer": layer_sums(found), "A layer, each product behind the one before": chains}
    report("gpu_products", {**tables, "Products": found}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
