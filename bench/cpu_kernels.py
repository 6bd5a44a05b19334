"""Products of the CPU's kernels, each alone, against the machine's rate of reading memory.

Weights come from memory: as many copies as the last cache doesn't hold take turns. See README.md.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, product
from math import inf
from typing import Any

import torch
from ceiling import memory_read_gb_s
from harness import arguments, report
from torch import Tensor

from sgcore.kernels import Kernels
from sgcore_cpu.kernels import CpuKernels
from sgcore_cpu.library import chosen_level
from sgcore_cpu.pages import move_to_huge_pages

SHAPES = "960x576,3072x576,576x1536,49152x576,8192x2048,3072x3072"
COLD_BYTES = 96 << 20
"""More than the last cache."""
DRAWN_ROWS, DEVIATIONS, VOCABULARY = (1, 32), (1, 4), 49152
REPEATS = 20
Product = tuple[list[Tensor], int, Callable[[Tensor], Any]]
"""Weights, their bytes, and what multiplies with them."""


def floats(kernels: Kernels, rows: int, size: int, dtype: torch.dtype) -> Product:
    weight = kernels.pack((torch.randn(rows, size) / size**0.5).to(dtype))
    return [weight], rows * size * dtype.itemsize, lambda x: kernels.linear(x, weight)


def integers(kernels: Kernels, rows: int, size: int, bits: int, group: int, has_zeros: bool) -> Product:
    """As weights that are rounded at start."""
    kernels = kernels.for_rounded_weights()
    weight = kernels.pack_int(torch.randint(0, 1 << bits, (rows, size), dtype=torch.uint8), bits)
    given = torch.randint(0, 1 << bits, (rows, size // group), dtype=torch.uint8) if has_zeros else None
    scales, zeros = kernels.pack_scales((torch.rand(rows, size // group) / size**0.5).half(), given, bits)
    weights = [x for x in (weight, scales, zeros) if x is not None]
    return weights, sum(x.nbytes for x in weights), lambda x: kernels.linear_int(x, weight, scales, zeros, bits)


KINDS: dict[str, Callable[[Kernels, int, int], Product]] = {
    "float32": partial(floats, dtype=torch.float32),
    "bfloat16": partial(floats, dtype=torch.bfloat16),
    "int8": partial(integers, bits=8, group=64, has_zeros=False),
    "int4": partial(integers, bits=4, group=32, has_zeros=True),
}


def best_s(calls: Mapping[str, Iterator[Callable[[], Any]]], repeats: int) -> dict[str, float]:
    """Seconds of the fastest call of each; they take turns, for a machine whose speed changes."""
    best = dict.fromkeys(calls, inf)
    for _ in range(repeats):
        for name, each in calls.items():
            call = next(each)
            begin = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def measure(
    levels: Mapping[str, Kernels], kind: str, shape: tuple[int, int], counts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    made = {level: [KINDS[kind](kernels, *shape)] for level, kernels in levels.items()}
    for level, kernels in levels.items():
        made[level] += [KINDS[kind](kernels, *shape) for _ in range(COLD_BYTES // made[level][0][1])]
        move_to_huge_pages(weight for weights, *_ in made[level] for weight in weights)
    copies = max(map(len, made.values()))
    for tokens in counts:
        x = torch.randn(tokens, shape[1])
        if kind == "bfloat16":
            x = x.bfloat16()
        calls = {level: cycle([partial(multiply, x) for *_, multiply in each]) for level, each in made.items()}
        for level, taken in best_s(calls, max(REPEATS, 2 * copies) if tokens < 32 else REPEATS).items():
            moved, flop = made[level][0][1], 2 * tokens * shape[0] * shape[1]
            line = {
                "out x in": "x".join(map(str, shape)),
                "kind": kind,
                "level": level,
                "rows": tokens,
                "us": taken * 1e6,
            }
            yield line | {"GB/s": moved / taken / 1e9, "GFLOP/s": flop / taken / 1e9}


def draws(kernels: Kernels) -> Iterator[dict[str, Any]]:
    """Beside the reference, which sorts. With wider logits few tokens have most of the probability, as a model's do."""
    for rows, deviation, top_p in product(DRAWN_ROWS, DEVIATIONS, (1.0, 0.9)):
        logits, ones = torch.randn(rows, VOCABULARY) * deviation, torch.ones(rows)
        limits, row = (torch.full((rows,), VOCABULARY), ones * top_p, ones * 0), torch.arange(rows)
        calls = {
            name: cycle([partial(one.sample, logits, *limits, row, row)])
            for name, one in (("ms", kernels), ("torch_ms", Kernels()))
        }
        taken = {name: seconds * 1e3 for name, seconds in best_s(calls, REPEATS).items()}
        yield {"rows": rows, "deviation": deviation, "top_p": top_p, **taken}


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--shapes", default=SHAPES, help="outputs x inputs")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rows", default="1,4,32,512")
    parser.add_argument("--level", default=chosen_level(), help="of the library, one or several; the best by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def main() -> int:
    asked = parse()
    torch.set_num_threads(asked.threads)
    levels, found = {level: CpuKernels(level) for level in asked.level.split(",")}, []
    counts = [int(word) for word in asked.rows.split(",")]
    for shape in asked.shapes.split(","):
        outputs, inputs = (int(word) for word in shape.split("x"))
        for kind in asked.kinds.split(","):
            found += measure(levels, kind, (outputs, inputs), counts)
    memory = [{"memory reads, GB/s": memory_read_gb_s(), "threads": asked.threads}]
    tables = {"Products": found, "Draws": list(draws(CpuKernels())), "Memory": memory}
    report("cpu_kernels", tables, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
