"""Finds the tiles that `sgcore_triton.integers` keeps in `TILES`, for the shapes of a layer.

    gpu_tiles.py --compile 0/14 &  ...  gpu_tiles.py --compile 13/14 &  wait
    gpu_tiles.py

The first line is only there to compile with all cores; its launches aren't timed. A product is timed behind a norm that
it has to wait for, as in a layer: alone, copies of the same kernel would overlap.
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

from sgcore_cuda.kernels import CudaKernels
from sgcore_triton import integers

Tile = tuple[int, ...]
KERNELS = CudaKernels()
SHOWN = 4
PROGRAMS = (100, 2500)
"""Fewest and most of a launch."""


def tiles(tokens: int, rows: int, is_gated: bool) -> Iterator[Tile]:
    """Those worth trying: rows of the weight, parts of `in`, stages, warps."""
    for rows_each, warps in ((32, 2), (64, 2), (64, 4), (128, 4), (128, 8)):
        if rows_each * min(tokens, 64) // warps > 2048:
            continue
        for parts in (1,) if is_gated else (1, 2, 4, 8):
            programs = rows // rows_each * parts * -(-tokens // 64) // (2 if is_gated else 1)
            if PROGRAMS[0] <= programs <= PROGRAMS[1]:
                yield from ((rows_each, parts, stages, warps) for stages in (3, 4))


def product(rows: int, size: int, is_gated: bool) -> Any:
    """A function of x (tokens, size)."""
    weight = KERNELS.pack_int(torch.randint(0, 16, (rows, size), dtype=torch.uint8), 4)
    words = integers.pack_scales(torch.rand(rows, size // GROUP).half(), None, 4)
    return lambda x: integers.linear(x, weight, words, 4, None, is_gated)


def behind_a_norm(call: Any, x: Tensor, weight: Tensor) -> None:
    call(KERNELS.rms_norm(x, weight, 1e-5))


def inputs(tokens: int, size: int) -> Tensor:
    return torch.randn(tokens, size, dtype=torch.bfloat16)


def tried(tokens: int, rows: int, size: int, is_gated: bool) -> Iterator[Tile]:
    """Each tile, while it is the one that the kernel's launch chooses."""
    for tile in tiles(tokens, rows, is_gated):
        integers.TILES = {(tokens, rows, size): tile}
        yield tile


def compile_part(asked: Namespace, shapes: list[tuple[int, int, int, bool]]) -> None:
    part, parts = map(int, asked.compile.split("/"))
    for place, (tokens, rows, size, is_gated) in enumerate(shapes):
        call, x = product(rows, size, is_gated), inputs(tokens, size)
        for number, _ in enumerate(tried(tokens, rows, size, is_gated)):
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
        made = [product(rows, size, is_gated) for _ in range(copies(rows * size // 2))]
        x = inputs(tokens, size)
        timed = []
        chain = [partial(behind_a_norm, call, x, torch.ones(size, dtype=x.dtype)) for call in made]
        for tile in tried(tokens, rows, size, is_gated):
            if not attempt(chain[0]):
                timed.append((graph_us(chain), tile))
        for us, tile in sorted(timed)[:SHOWN]:
            found.append({"tokens": tokens, "out": rows, "in": size, "us": us, "tile": str(tile)})
    report("gpu_tiles", {"Fastest tiles": found}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
