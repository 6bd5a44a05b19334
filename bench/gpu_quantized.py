"""Weights of 16, 8 and 4 bits in the whole engine: decode steps at several numbers of rows, and some workloads.

Random weights of a shape; 4 bits are AWQ's, in groups of 128 with zero points. See README.md.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from gpu_steps import measure, open_core
from harness import arguments, report
from offline import SHAPES, SGCore, ids, model_dir, random, workloads

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bf16": ({}, {}),
    "fp8": ({}, {"quantization": "fp8"}),
    "fp8 cache": ({}, {"kv_cache_dtype": "fp8"}),
    "fp8, fp8 cache": ({}, {"quantization": "fp8", "kv_cache_dtype": "fp8"}),
    "int4": ({"quantization_config": AWQ}, {}),
}
"""What is added to the configuration, and to the engine's options."""


def folder(shape: str, kind: str) -> str:
    path = Path(model_dir(shape)).parent / f"{shape}-{kind.replace(' ', '').replace(',', '-')}"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(SHAPES[shape] | KINDS[kind][0]))
    return str(path)


def steps(shape: str, kind: str, cases: list[str]) -> list[dict[str, Any]]:
    """Time of a decode step, in this process."""
    core = open_core(folder(shape, kind), **KINDS[kind][1])
    found = []
    for case in cases:
        rows, tokens, prefix = map(int, case.split(":"))
        row, kernels = measure(core, rows, tokens, prefix)
        found.append({"weights": kind, **row})
        print(f"{kind} {case} {row['step_ms']:.3f}", [(k["kernel"][:30], round(k["us_a_step"])) for k in kernels[:8]])
    del core
    gc.collect()
    torch.cuda.empty_cache()
    return found


def seconds(shape: str, kind: str, names: list[str], repeat: int) -> dict[str, Any]:
    """Of workloads of offline.py, the best of several."""
    engine = SGCore(folder(shape, kind), KINDS[kind][1])
    draw = random.Random(7)
    engine.run([(ids(draw, 300), 32) for _ in range(8)])
    found: dict[str, Any] = {"weights": kind}
    work = workloads()
    for name in names:
        times = []
        for _ in range(repeat):
            engine.flush()
            time.sleep(0.2)
            began = time.perf_counter()
            engine.run(work[name])
            times.append(time.perf_counter() - began)
        found[name] = min(times)
        found[f"{name}, all"] = ", ".join(f"{t:.3f}" for t in times)
    engine.close()
    return found


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama8b")
    parser.add_argument("--kinds", default="bf16;fp8;int4", help=f"of {'; '.join(KINDS)}")
    parser.add_argument("--cases", default="1:600:0,16:600:0,64:600:0", help="ROWS:TOKENS:PREFIX,...")
    parser.add_argument("--workloads", default="single_short,prefill")
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def main() -> int:
    asked = parse()
    stepped, timed = [], []
    for kind in asked.kinds.split(";"):
        if asked.workloads:
            timed.append(seconds(asked.shape, kind, asked.workloads.split(","), asked.repeat))
            print(timed[-1], flush=True)
        if asked.cases:
            stepped += steps(asked.shape, kind, asked.cases.split(","))
    report(f"gpu_quantized_{asked.shape}", {"Decode steps": stepped, "Workloads, s": timed}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
