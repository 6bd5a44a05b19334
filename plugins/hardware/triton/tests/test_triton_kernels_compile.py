"""Every kernel beside attention's compiles for every device of the package, on a machine that has none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

POINTERS = {
    "*bf16": "x residual weight out total qkv q_norm k_norm cos sin keys values norm bias",
    "*fp32": "rates scales given logits counts frequency presence repetition top_p min_p sums chosen",
    "*i64": "slots top_k scratch best tokens rows seeds positions scores",
    "*i32": "equals masks words arrivals",
    "*i1": "is_seen",
}
TYPES = {name: kind for kind, names in POINTERS.items() for name in names.split()}
OVERLAPPING = ("sm_90", "sm_100")
"""Devices on which a kernel may start before its predecessor ends."""
WITH_FLOAT8 = ("sm_90", "sm_100", "gfx950")
"""Devices that multiply E4M3 numbers."""
PACKED = {"weight": "*u8", "tokens": "i32"}
ROTARY = {"HEADS": 32, "KV_HEADS": 8, "HEAD_DIM": 128, "HALF": 64, "GROUP": 16, "PAGE": 16, "NORMS": True}
SKINNY = {"ROWS_OUT": 4096, "SIZE": 4096, "TOKENS": 2, "ROWS": 4, "GROUPS": 128, "VECTOR": 8, "GATED": False}
SKINNY |= {"SCALED": False, "BLOCK_ROWS": 0, "BLOCKS": 0}
NARROW = {"ROWS_OUT": 4096, "SIZE": 4096, "TOKENS": 16, "ROWS": 64, "STEP": 256, "VECTOR": 8, "STAGES": 3}
SKINNY_INT = {"ROWS_OUT": 14336, "SIZE": 4096, "GROUP": 128, "TOKENS": 1, "ROWS": 4, "THREADS": 128, "GATED": True}
SKINNY_INT |= {"NORMED": True, "ADDS": True, "HAS_BIAS": True, "row_stride": 1}
SKINNY_INT_TYPES = {"x_words": "*i64", "residual_words": "*i64", "norm_words": "*i64", "weight": "*i32"}
SKINNY_INT_TYPES |= {"words": "*i32", "tokens": "i32"}
NARROW |= {"HAS_BIAS": True}
GROUPED = {"ROWS_OUT": 4096, "SIZE": 4096, "GROUP": 128, "ROWS": 64, "STEP": 128}
PARTS = {"TOKENS": 16, "SPLITS": 8, "HAS_BIAS": False}
ROUND = {"SIZE": 4096, "BLOCK": 4096, "MOST": 448.0, "LEAST": 1e-12}
FLOAT8 = {"ROWS_OUT": 4096, "SIZE": 4096, "STEP": 128, "STAGES": 4, "HAS_BIAS": True, "RATES": 1}
FLOAT8_TYPES = {"x": "*fp8e4nv", "weight": "*fp8e4nv", "scales": "*fp32"}
NORMED = {"NORMED": True, "ADDS": True, "HAS_BIAS": True}


def cases(target: str) -> Iterator[tuple[Any, dict[str, Any], dict[str, str]]]:
    """Kernel, constants, and types that differ from `TYPES`."""
    from sgcore_triton import draw, integers, narrow, norms, rotary, sampling, skinny, skinny_int

    yield norms._norm_rows, {"SIZE": 4096, "BLOCK": 4096, "ADDS": True}, {}
    yield norms._silu_mul_rows, {"SIZE": 14336, "BLOCK": 2048}, {}
    yield rotary._rotary_write, ROTARY, {}
    yield skinny._skinny, SKINNY | NORMED, {"tokens": "i32"}
    yield skinny._skinny, SKINNY | NORMED | {"GATED": True}, {"tokens": "i32"}
    for bits in (4, 8):
        yield skinny_int._skinny_int, SKINNY_INT | {"BITS": bits, "ASM": target.startswith("sm")}, SKINNY_INT_TYPES
    parts = PARTS | {"STAGES": 4 if target.startswith("sm") else 3}
    grouped = GROUPED | parts | {"GATED": False, "ASM": target.startswith("sm")}
    for bits in (4, 8):
        yield integers._grouped, grouped | {"BITS": bits}, PACKED
        yield integers._grouped, grouped | {"BITS": bits, "GATED": True, "SPLITS": 1}, PACKED
        yield integers._grouped, grouped | {"BITS": bits}, PACKED | {"x": "*fp16", "out": "*fp16"}
        yield integers._widen, GROUPED | {"BITS": bits}, PACKED
    if target in WITH_FLOAT8:
        yield from float8_cases()
    if target in OVERLAPPING:
        for gated in (False, True):
            yield narrow._narrow, NARROW | {"GATED": gated}, {"tokens": "i32"}
    yield sampling._best_of_part, {"BLOCK": 1024}, {"logits": "*bf16"}
    yield sampling._best_of_row, {"PARTS": 128}, {"out": "*i64"}
    yield sampling._mask, {"BLOCK": 1024}, {"logits": "*bf16"}
    yield sampling._penalise, {"BLOCK": 1024}, {"out": "*fp32"}
    yield sampling._sum_of_part, {"PART": 8192, "BLOCK": 1024}, {}
    yield sampling._log_of_row, {"PARTS": 16}, {"norm": "*fp32"}
    draws = {"SCRATCH": draw.SCRATCH}
    yield draw._first_level, draws | {"BLOCK": 1024}, {}
    for which in (0, 1):
        yield draw._second_level, draws | {"BLOCK": 1024, "WHICH": which}, {}
        yield draw._third_level, draws | {"BLOCK": 1024, "WHICH": which}, {}
    yield draw._settle, draws, {}
    yield draw._count_equals, draws | {"BLOCK": 1024}, {}
    yield draw._score_part, draws | {"PARTS": 128, "BLOCK": 1024}, {}


def float8_cases() -> Iterator[tuple[Any, dict[str, Any], dict[str, str]]]:
    from sgcore_triton import float8, skinny

    for rows in (0, 128):
        constants = SKINNY | NORMED | {"VECTOR": 16, "SCALED": True, "BLOCK_ROWS": rows, "BLOCKS": rows}
        yield skinny._skinny, constants, {"weight": "*fp8e4nv", "scales": "*fp32", "tokens": "i32"}
    for group, count, given in ((4096, 1, False), (128, 32, False), (4096, 1, True)):
        constants = ROUND | {"GROUP": group, "GROUPS": count, "IS_GIVEN": given}
        yield float8._round_rows, constants, {"out": "*fp8e4nv", "scales": "*fp32"}
        yield float8._norm_and_round, constants | {"ADDS": True}, {"out": "*fp8e4nv", "scales": "*fp32"}
    for tokens, rows, parts in ((16, 64, 8), (64, 64, 1), (128, 128, 1)):
        for block in (0, 1, 128):
            constants = FLOAT8 | {"TOKENS": tokens, "ROWS": rows, "SPLITS": parts, "BLOCK_ROWS": block}
            for gated in (False, True) if tokens < 128 else (False,):
                yield float8._product, constants | {"GATED": gated}, FLOAT8_TYPES | {"tokens": "i32"}


def compile_all(target: str) -> None:
    """Run in a process of its own: where `TRITON_INTERPRET` was set at import, a kernel can't be compiled."""
    from sgcore_triton.targets import compile_for

    for kernel, constants, different in cases(target):
        constants = constants | {"PDL": 2 if target in OVERLAPPING else 0}
        names = [name for name in kernel.arg_names if name not in constants]
        types = {name: different.get(name) or TYPES.get(name) or _scalar(name) for name in names}
        assert compile_for(target, kernel, types, constants, num_warps=4).asm
    print("compiled")


def _scalar(name: str) -> str:
    return "fp32" if name == "eps" else "i32"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942", "gfx950"])
def test_the_kernels_compile(target: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, __file__, target]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "compiled", done.stderr


if __name__ == "__main__":
    compile_all(sys.argv[1])
