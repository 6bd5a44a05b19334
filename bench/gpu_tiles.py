"""Finds the tiles that `sgcore_triton.integers` and `sgcore_triton.float8` keep in `TILES`, for the shapes of a layer.

    gpu_tiles.py --kind int4 --compile 0/14 &  ...  gpu_tiles.py --kind int4 --compile 13/14 &  wait
    gpu_tiles.py --kind int4

The first line is only there to compile with all cores; its launches aren't timed.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from gpu_products import GROUP, layer_products
from gpu_timing import copies, graph_us
from harness import arguments, report
from offline import SHAPES
from torch import Tensor

from sgcore.kernels import FLOAT8
from sgcore_cuda.kernels import CudaKernels
from sgcore_triton import float8, integers

Tile = tuple[int, ...]
KERNELS = CudaKernels()
MODULES = {"int4": integers, "fp8": float8}
SHOWN = 4
PROGRAMS = (100, 2500)
"""Fewest and most of a launch."""


def tiles(kind: str, tokens: int, rows: int, size: int, is_gated: bool) -> Iterator[Tile]:
    """Those worth trying."""
    for rows_each, warps in ((16, 1), (32, 1), (32, 2), (64, 2), (64, 4), (128, 4), (128, 8)):
        if rows_each * min(tokens, 64) // warps > 2048 or (kind == "fp8" and warps < 4):
            continue
        for parts in (1,) if is_gated else (1, 2, 4, 8):
            programs = rows // rows_each * parts * -(-tokens // 64) // (2 if is_gated else 1)
            if not PROGRAMS[0] <= programs <= PROGRAMS[1]:
                continue
            for stages in (3, 4, 6):
                if kind == "int4":
                    yield rows_each, parts, stages, warps
                else:
                    yield from ((rows_each, step, parts, stages, warps) for step in (128, 256))


def product(kind: str, rows: int, size: int, is_gated: bool) -> Any:
    """A function of x (tokens, size), or of x rounded already."""
    if kind == "fp8":
        weight, scale = torch.randn(rows, size).to(FLOAT8), torch.rand(rows)
        return lambda x: float8.product(*x, weight, scale, torch.bfloat16, None, None, is_gated)
    weight = KERNELS.pack_int(torch.randint(0, 16, (rows, size), dtype=torch.uint8), 4)
    scales = torch.rand(size // GROUP, rows).half().T
    zeros = torch.randint(0, 16, (size // GROUP, rows), dtype=torch.uint8).T
    return lambda x: integers.linear(x, weight, scales, zeros, 4, None, is_gated)


def inputs(kind: str, tokens: int, size: int) -> Tensor | tuple[Tensor, Tensor]:
    x = torch.randn(tokens, size, dtype=torch.bfloat16)
    return KERNELS.quantize_fp8(x) if kind == "fp8" else x


def tried(kind: str, tokens: int, rows: int, size: int, is_gated: bool) -> Iterator[Tile]:
    """Each tile, while it is the one that the kernel's launch chooses."""
    module: Any = MODULES[kind]
    for tile in tiles(kind, tokens, rows, size, is_gated):
        module.TILES = {(tokens, rows, size): tile}
        yield tile


def compile_part(asked: Namespace, shapes: list[tuple[int, int, int, bool]]) -> None:
    part, parts = map(int, asked.compile.split("/"))
    for place, (tokens, rows, size, is_gated) in enumerate(shapes):
        call, x = product(asked.kind, rows, size, is_gated), inputs(asked.kind, tokens, size)
        for number, _ in enumerate(tried(asked.kind, tokens, rows, size, is_gated)):
            if (number + place) % parts == part:
                attempt(partial(call, x))


def attempt(call: Any) -> str:
    """What goes wrong: tiles may ask for too much shared memory."""
    try:
        call()
        torch.cuda.synchronize()
    except Exception as error:  # any failure only means that this tile is no candidate
        return str(error)[:60]
    return ""


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--kind", choices=MODULES, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="llama8b")
    parser.add_argument("--tokens", default="8,16,32,64", help="powers of two")
    parser.add_argument("--compile", help="PART/PARTS: compile only")
    return parser.parse_args()


def main() -> int:
    asked = parse()
    torch.set_default_device("cuda")
    products = layer_products(asked.shape)
    counts = [int(word) for word in asked.tokens.split(",")]
    shapes = [(tokens, *products[name], name == "gate and up") for name in products for tokens in counts]
    if asked.compile:
        compile_part(asked, shapes)
        return 0
    found: list[dict[str, Any]] = []
    for tokens, rows, size, is_gated in shapes:
        made = [product(asked.kind, rows, size, is_gated) for _ in range(copies(rows * size // 2))]
        x = inputs(asked.kind, tokens, size)
        timed = []
        for tile in tried(asked.kind, tokens, rows, size, is_gated):
            if not attempt(partial(made[0], x)):
                timed.append((graph_us([partial(call, x) for call in made]), tile))
        for us, tile in sorted(timed)[:SHOWN]:
            found.append({"tokens": tokens, "out": rows, "in": size, "us": us, "tile": str(tile)})
    report(f"gpu_tiles_{asked.kind}", {"Fastest tiles": found}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
