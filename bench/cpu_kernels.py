"""Products of the CPU's kernels, each alone, against the machine's rate of reading memory.

Weights come from memory: as many copies as the last cache doesn't hold take turns. See README.md.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import torch
from harness import arguments, report
from torch import Tensor

from sgcore.kernels import Kernels
from sgcore_cpu.kernels import CpuKernels

SHAPES = "960x576,3072x576,576x1536,49152x576,8192x2048,3072x3072"
COLD_BYTES = 96 << 20
"""More than the last cache; and so much is read to find the memory's rate."""
REPEATS = 20
Product = Callable[[Tensor], Any]


def floats(kernels: Kernels, rows: int, size: int, dtype: torch.dtype) -> tuple[int, Product]:
    weight = kernels.pack((torch.randn(rows, size) / size**0.5).to(dtype))
    return rows * size * dtype.itemsize, lambda x: kernels.linear(x.to(dtype), weight)


def integers(kernels: Kernels, rows: int, size: int, bits: int, group: int, has_zeros: bool) -> tuple[int, Product]:
    weight = kernels.pack_int(torch.randint(0, 1 << bits, (rows, size), dtype=torch.uint8), bits)
    given = torch.randint(0, 1 << bits, (rows, size // group), dtype=torch.uint8) if has_zeros else None
    scales, zeros = kernels.pack_scales((torch.rand(rows, size // group) / size**0.5).half(), given, bits)
    moved = sum(x.nbytes for x in (weight, scales, zeros) if x is not None)
    return moved, lambda x: kernels.linear_int(x, weight, scales, zeros, bits)


KINDS: dict[str, Callable[[Kernels, int, int], tuple[int, Product]]] = {
    "float32": partial(floats, dtype=torch.float32),
    "bfloat16": partial(floats, dtype=torch.bfloat16),
    "int8": partial(integers, bits=8, group=64, has_zeros=False),
    "int4": partial(integers, bits=4, group=32, has_zeros=True),
}


def best_s(calls: Iterator[Callable[[], Any]], repeats: int) -> float:
    """Seconds of the fastest call."""
    found = []
    for call in (next(calls) for _ in range(repeats)):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return min(found)


def read_rate() -> float:
    """Bytes a second."""
    x = torch.ones(COLD_BYTES // 4)
    return x.nbytes / best_s(cycle([x.sum]), REPEATS)


def measure(kernels: Kernels, kind: str, shape: tuple[int, int], counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    made = [KINDS[kind](kernels, *shape)]
    moved = made[0][0]
    made += [KINDS[kind](kernels, *shape) for _ in range(COLD_BYTES // moved)]
    for tokens in counts:
        x = torch.randn(tokens, shape[1])
        if kind == "bfloat16":
            x = x.bfloat16()
        calls = cycle([partial(product, x) for _, product in made])
        taken = best_s(calls, max(REPEATS, 2 * len(made)) if tokens < 32 else REPEATS)
        line = {"out x in": "x".join(map(str, shape)), "kind": kind, "rows": tokens, "us": taken * 1e6}
        yield line | {"GB/s": moved / taken / 1e9, "GFLOP/s": 2 * tokens * shape[0] * shape[1] / taken / 1e9}


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--shapes", default=SHAPES, help="outputs x inputs")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rows", default="1,4,32,512")
    parser.add_argument("--level", help="the library's level; the best by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def main() -> int:
    asked = parse()
    torch.set_num_threads(asked.threads)
    kernels, found = CpuKernels(asked.level), []
    counts = [int(word) for word in asked.rows.split(",")]
    for shape in asked.shapes.split(","):
        outputs, inputs = (int(word) for word in shape.split("x"))
        for kind in asked.kinds.split(","):
            found += measure(kernels, kind, (outputs, inputs), counts)
    memory = [{"memory reads, GB/s": read_rate() / 1e9, "threads": asked.threads}]
    report("cpu_kernels", {"Products": found, "Memory": memory}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
