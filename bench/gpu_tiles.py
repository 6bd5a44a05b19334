"""Finds the tiles that the Triton kernels for few tokens keep in their tables.

    gpu_tiles.py --compile 0/14 &  ...  gpu_tiles.py --compile 13/14 &  wait
    gpu_tiles.py

The first line is only there to compile with all cores; its launches aren't timed. A tile is timed in a layer whose
products wait for each other, as in a step: alone, copies of the same kernel would overlap. Each product gets its best
tile in turn.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import torch
from gpu_layers import KINDS, NAMES, Layer, chain_us, layer_products
from harness import arguments, report
from offline import SHAPES

from sgcore_cuda.kernels import CudaKernels
from sgcore_triton import integers, skinny, skinny_int

Tile = tuple[int, ...]
KERNELS = CudaKernels()
LAYERS = {"bf16": 2, "fp8": 2, "int8": 2, "int4": 4}
"""More than fit into the cache."""
SHOWN = 3
PROGRAMS = (100, 2500)
"""Fewest and most of a launch with matrix units."""


class Search:
    """The tiles of one kind of weight at one number of tokens."""

    def __init__(self, kind: str, tokens: int, shape: str) -> None:
        self.kind, self.tokens, self.shape, self.products = kind, tokens, shape, layer_products(shape)

    def table(self) -> dict[Any, Any]:
        if self.tokens > skinny.MOST_TOKENS:
            return integers.TILES
        return {"bf16": skinny.TILES, "fp8": skinny.TILES_FLOAT8}.get(self.kind, skinny_int.TILES)

    def key(self, name: str) -> tuple[int, ...]:
        key = (self.tokens, *self.products[name])
        is_skinny_int = self.kind.startswith("int") and self.tokens <= skinny.MOST_TOKENS
        return (int(self.kind[3:]), *key) if is_skinny_int else key

    def tiles(self, name: str) -> Iterator[Tile]:
        """Those worth trying."""
        is_gated = name == "gate and up"
        if self.tokens <= skinny.MOST_TOKENS:
            most = (8 if self.kind == "int4" else 4) * (1 if is_gated or self.tokens > 1 else 2)
            for rows in (1, 2, 4, 8, 16):
                if rows <= most:
                    yield from ((rows, warps) for warps in (1, 2, 4, 8))
            return
        rows = self.products[name][0]
        for rows_each, warps in ((32, 2), (64, 2), (64, 4), (128, 4), (128, 8)):
            if rows_each * min(self.tokens, integers.WIDEST_TILE) // warps > 2048:
                continue
            for parts in (1,) if is_gated else (1, 2, 4, 8):
                programs = rows // rows_each * parts * -(-self.tokens // integers.WIDEST_TILE) // (2 if is_gated else 1)
                if PROGRAMS[0] <= programs <= PROGRAMS[1]:
                    yield from ((rows_each, parts, stages, warps) for stages in (3, 4))

    def tried(self, name: str) -> Iterator[Tile]:
        """Each tile, while it is the one that the launch chooses."""
        for tile in self.tiles(name):
            self.table()[self.key(name)] = tile
            yield tile


def attempt(layers: list[Layer], tokens: int) -> float:
    """Microseconds; infinite for a tile that wants too much of something."""
    try:
        return chain_us(layers, tokens)
    except Exception as error:  # any failure only means that this tile is no candidate
        print(str(error)[:60], file=sys.stderr)
        return float("inf")


def best(search: Search, layers: list[Layer]) -> list[dict[str, Any]]:
    """A product after the other, the largest first."""
    found = []
    for name in sorted(NAMES, key=lambda name: -search.products[name][0] * search.products[name][1]):
        timed = sorted((attempt(layers, search.tokens), tile) for tile in search.tried(name))
        search.table()[search.key(name)] = timed[0][1]
        for us, tile in timed[:SHOWN]:
            found.append({"kind": search.kind, "key": str(search.key(name)), "layer, us": us, "tile": str(tile)})
    return found


def compile_part(search: Search, part: int, parts: int) -> None:
    layer = Layer(KERNELS, search.kind, search.shape)
    x = torch.randn(search.tokens, len(layer.norm), dtype=torch.bfloat16)
    for place, name in enumerate(NAMES):
        for number, _ in enumerate(search.tried(name)):
            if (number + place) % parts == part:
                try:
                    layer(x, x)
                except Exception as error:  # as in `attempt`
                    print(str(error)[:60], file=sys.stderr)


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama8b")
    parser.add_argument("--kinds", default="fp8,int8,int4", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--tokens", default="1,2,8,16,64", help="powers of two")
    parser.add_argument("--compile", help="PART/PARTS: compile only")
    return parser.parse_args()


def main() -> int:
    asked = parse()
    torch.set_default_device("cuda")
    found: list[dict[str, Any]] = []
    for kind in asked.kinds.split(","):
        counts = [int(word) for word in asked.tokens.split(",")]
        searches = [
            Search(kind, tokens, asked.shape)
            for tokens in counts
            if tokens <= skinny.MOST_TOKENS or kind.startswith("int")
        ]
        if asked.compile:
            for search in searches:
                compile_part(search, *map(int, asked.compile.split("/")))
            continue
        layers = [Layer(KERNELS, kind, asked.shape) for _ in range(LAYERS[kind])]
        for search in searches:
            found += best(search, layers)
        del layers
    if not asked.compile:
        report("gpu_tiles", {"Fastest tiles": found}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
