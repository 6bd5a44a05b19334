"""Every attention kernel compiles for every device of the package, on a machine that has none of them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMMON = {
    "GROUP": 4, "KV_HEADS": 8, "HEAD_DIM": 128, "PAGE": 16, "WINDOW": 0, "SOFTCAP": 0.0,
    "BLOCK_N": 64, "BLOCK_D": 128, "STAGES": 3, "PDL": False,
}  # fmt: skip
DECODE = COMMON | {"CARRIES": True, "BLOCK_M": 16, "BLOCK_S": 16}
SHARED = COMMON | {"SUBTILES": 2, "BLOCK_M": 64, "WINDOW": 100, "SOFTCAP": 30.0}
PREFILL = COMMON | {"SUBTILES": 4, "BLOCK_M": 128}
FLOAT32 = ("partial_ptr", "lse_ptr")
MODEL = ("q_ptr", "out_ptr")
WITH_FLOAT8 = ("sm_90", "sm_100", "gfx950")
"""Devices that read E4M3 numbers."""


def compile_all(target: str) -> None:
    """Run in a process of its own: where `TRITON_INTERPRET` was set at import, a kernel can't be compiled."""
    from sgcore_triton.decode import decode_kernel, shared_kernel
    from sgcore_triton.prefill import prefill_kernel
    from sgcore_triton.targets import compile_for

    for kernel, constants, warps in (
        (decode_kernel, DECODE, 4),
        (shared_kernel, SHARED, 4),
        (prefill_kernel, PREFILL, 8),
        (prefill_kernel, PREFILL | {"WINDOW": 100}, 8),
    ):
        names = [name for name in kernel.arg_names if name not in constants]
        for cache in ("*bf16", "*fp8e4nv") if target in WITH_FLOAT8 else ("*bf16",):
            types = {name: _type(name, cache) for name in names}
            assert compile_for(target, kernel, types, constants, num_warps=warps).asm
    print("compiled")


def _type(name: str, cache: str) -> str:
    if name in ("k_ptr", "v_ptr"):
        return cache
    if name == "scale":
        return "fp32"
    if not name.endswith("_ptr"):
        return "i32"
    return "*fp32" if name in FLOAT32 else "*bf16" if name in MODEL else "*i32"


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942", "gfx950"])
def test_the_kernels_compile(target: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, __file__, target]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "compiled", done.stderr


if __name__ == "__main__":
    compile_all(sys.argv[1])
