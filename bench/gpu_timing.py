"""Timing of single kernels: replayed as a graph, over copies of their inputs that don't fit into the cache together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

import torch

CACHE_BYTES = 200 << 20
"""Of copies: more than any device keeps close."""
REPLAYS = 9
BYTES_PER_US = 3.35e6
"""What the memory of one H100 is said to reach; copies reach 3.0."""
FLOP_PER_US = {torch.bfloat16: 989e6, torch.float8_e4m3fn: 1979e6}
"""What its matrix units are said to reach."""


def copies(bytes_each: int) -> int:
    """How many copies of an input are needed so that each is read from memory."""
    return max(2, -(-CACHE_BYTES // bytes_each))


def graph_us(calls: Sequence[Callable[[], object]]) -> float:
    """Microseconds of a call, the median of replays of all of them."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    for _ in range(2):
        graph.replay()
    times = []
    for _ in range(REPLAYS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(calls))
    return median(times)
