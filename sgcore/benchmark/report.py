"""What a run comes to: SGLang's record and its table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from sgcore.benchmark.client import Reply

WIDTH = 50


def summarize(replies: Iterable[Reply], duration_s: float) -> dict[str, Any]:
    """SGLang's record of a run; times in milliseconds, rates for a second. Failed requests count in `failed` alone."""
    every = list(replies)
    good = [reply for reply in every if not reply.error]
    inputs, outputs = sum(r.prompt_tokens for r in good), sum(r.output_tokens for r in good)
    latencies = [reply.latency_s for reply in good]
    record: dict[str, Any] = {
        "duration": duration_s,
        "completed": len(good),
        "failed": len(every) - len(good),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(good) / duration_s,
        "input_throughput": inputs / duration_s,
        "output_throughput": outputs / duration_s,
        "total_throughput": (inputs + outputs) / duration_s,
        "concurrency": sum(latencies) / duration_s,
    }
    return (
        record
        | _spread("e2e_latency", latencies)
        | _spread("ttft", [reply.ttft_s for reply in good])
        | _spread("tpot", [reply.tpot_s for reply in good if reply.output_tokens > 1])
        | _spread("itl", [gap for reply in good for gap in reply.gaps_s()])
    )


def _spread(name: str, seconds: list[float]) -> dict[str, float]:
    ms = np.array(seconds or [0.0]) * 1000.0
    record = {f"mean_{name}_ms": ms.mean(), f"median_{name}_ms": np.median(ms), f"std_{name}_ms": ms.std()}
    record |= {f"p{p}_{name}_ms": np.percentile(ms, p) for p in (90, 95, 99)}
    return {key: float(value) for key, value in {**record, f"max_{name}_ms": ms.max()}.items()}


TOTALS = (
    ("Successful requests:", "completed"),
    ("Failed requests:", "failed"),
    ("Benchmark duration (s):", "duration"),
    ("Total input tokens:", "total_input_tokens"),
    ("Total generated tokens:", "total_output_tokens"),
    ("Request throughput (req/s):", "request_throughput"),
    ("Input token throughput (tok/s):", "input_throughput"),
    ("Output token throughput (tok/s):", "output_throughput"),
    ("Total token throughput (tok/s):", "total_throughput"),
    ("Concurrency:", "concurrency"),
)
"""Label -> key of the record."""
TIMES = (
    ("End-to-End Latency", "E2E Latency", "e2e_latency", ("mean", "median", "p90", "p99")),
    ("Time to First Token", "TTFT", "ttft", ("mean", "median", "p99")),
    ("Time per Output Token (excl. 1st token)", "TPOT", "tpot", ("mean", "median", "p99")),
    ("Inter-Token Latency", "ITL", "itl", ("mean", "median", "p95", "p99", "max")),
)
"""Title, label, name in the record, and what of it is shown."""


def format_table(record: dict[str, Any]) -> str:
    """The record as SGLang prints it."""
    lines = [" Serving Benchmark Result ".center(WIDTH, "=")]
    for name in ("backend", "request_rate", "max_concurrency"):
        lines.append(_line(f"{name.replace('_', ' ').capitalize()}:", record[name] or "not set"))
    lines += [_line(label, record[key]) for label, key in TOTALS]
    for title, label, name, shown in TIMES:
        lines.append(title.center(WIDTH, "-"))
        lines += [_line(f"{which.capitalize()} {label} (ms):", record[f"{which}_{name}_ms"]) for which in shown]
    return "\n".join([*lines, "=" * WIDTH])


def _line(label: str, value: Any) -> str:
    return f"{label:<40} {value:.2f}" if isinstance(value, float) else f"{label:<40} {value}"
