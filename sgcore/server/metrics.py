"""Prometheus metrics: gauges read from the core's newest report at each scrape, and each request's times."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sgcore.engine.generation import Generation
from sgcore.engine.messages import Stats

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
RATE_WINDOW_S = 1.0

GAUGES: dict[str, str] = {
    "num_running_reqs": "Requests in the running batch.",
    "num_queue_reqs": "Requests that wait.",
    "num_used_tokens": "Tokens of the KV pool that running requests hold.",
    "token_usage": "Share of the KV pool that running requests hold, 0 to 1.",
    "cache_hit_rate": "Share of prompt tokens found in the prefix cache since the start, 0 to 1.",
    "gen_throughput": "Generated tokens a second, over the last second or more.",
    "num_retracted_reqs": "Running requests sent back to the queue since the start.",
    "num_cache_violations": "Pages freed twice and prefixes unlocked twice since the start: more than 0 is a bug.",
}
COUNTERS: dict[str, str] = {
    "prompt_tokens_total": "Prompt tokens of finished requests.",
    "generation_tokens_total": "Generated tokens.",
    "cached_tokens_total": "Prompt tokens found in the prefix cache.",
    "num_requests_total": "Requests submitted.",
    "num_aborted_requests_total": "Requests aborted, refused or left by their client.",
}
HISTOGRAMS: dict[str, str] = {
    "time_to_first_token_seconds": "From submission to the first token.",
    "inter_token_latency_seconds": "Between tokens of one sequence.",
    "e2e_request_latency_seconds": "From submission to the last token.",
}
NAMES: dict[str, str] = GAUGES | COUNTERS | HISTOGRAMS
"""Every metric's base name and help text; `docs/reference/metrics.md` is compared with it."""


@dataclass(eq=False)
class Load(Collector):
    """The core's load, read at a scrape."""

    frontend: Any
    prefix: str
    model_name: str
    rate: float = 0.0
    seen_tokens: int = 0
    seen_at: float = field(default_factory=time.monotonic)

    def values(self) -> dict[str, float]:
        """Gauge -> value."""
        stats: Stats = self.frontend.stats
        return {
            "num_running_reqs": stats.running,
            "num_queue_reqs": stats.queued,
            "num_used_tokens": stats.used_tokens,
            "token_usage": stats.used_tokens / max(1, stats.total_tokens),
            "cache_hit_rate": stats.prefix_hit_tokens_total / max(1, stats.prompt_tokens_total),
            "gen_throughput": self._throughput(stats.generated_tokens_total),
            "num_retracted_reqs": stats.retractions_total,
            "num_cache_violations": stats.violations_total,
        }

    def _throughput(self, tokens: int) -> float:
        now = time.monotonic()
        if now - self.seen_at >= RATE_WINDOW_S:
            self.rate = max(0, tokens - self.seen_tokens) / (now - self.seen_at)
            self.seen_at, self.seen_tokens = now, tokens
        return self.rate

    def collect(self) -> Iterable[Metric]:
        for name, value in self.values().items():
            gauge = GaugeMetricFamily(self.prefix + name, GAUGES[name], labels=["model_name"])
            gauge.add_metric([self.model_name], value)
            yield gauge

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(self.prefix + name, text) for name, text in GAUGES.items()]


class Metrics:
    """One server's registry."""

    def __init__(self, prefix: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the text, and boards ignore them
        self.prefix = prefix
        self.registry = CollectorRegistry()
        self.load: Load | None = None
        self.counters: dict[str, Counter] = {}
        self.histograms: dict[str, Histogram] = {}

    def watch(self, frontend: Any, model_name: str) -> None:
        """The core is there: its metrics exist from now on, and go on where it took another one's place."""
        if self.load is not None:
            self.load.frontend = frontend
            return
        self.load = Load(frontend, self.prefix, model_name)
        self.registry.register(self.load)
        for name, text in COUNTERS.items():
            counter = Counter(self.prefix + name, text, ["model_name"], registry=self.registry)
            self.counters[name] = counter.labels(model_name)
        for name, text in HISTOGRAMS.items():
            histogram = Histogram(self.prefix + name, text, ["model_name"], registry=self.registry, buckets=SECONDS)
            self.histograms[name] = histogram.labels(model_name)

    def request(self) -> RequestWatch:
        """A watch over one prompt."""
        return RequestWatch(self.counters, self.histograms)

    def text(self) -> bytes:
        """The registry in Prometheus's text format."""
        return generate_latest(self.registry)


@dataclass
class RequestWatch:
    """The times of one prompt's samples."""

    counters: dict[str, Counter]
    histograms: dict[str, Histogram]
    submitted: float = field(default_factory=time.monotonic)
    seen: dict[int, tuple[int, float]] = field(default_factory=dict)
    running: int = 0
    is_counted: bool = False
    newest: Generation | None = None
    """The sample that changed last."""

    def changed(self, generation: Generation) -> None:
        """A sample has grown or ended."""
        now = time.monotonic()
        self.newest = generation
        tokens, last = self.seen.get(generation.index, (0, self.submitted))
        new = len(generation.output_ids) - tokens
        if generation.index not in self.seen:
            self.running += 1
        if new > 0:
            self._grew(tokens == 0, new, now - last)
            self.seen[generation.index] = len(generation.output_ids), now
        else:
            self.seen.setdefault(generation.index, (0, self.submitted))
        if generation.is_finished:
            self._finished(generation, now)

    def _grew(self, is_first: bool, tokens: int, seconds: float) -> None:
        self.counters["generation_tokens_total"].inc(tokens)
        if is_first:
            self.histograms["time_to_first_token_seconds"].observe(seconds)
        else:
            self.histograms["inter_token_latency_seconds"].observe(seconds / tokens)

    def _finished(self, generation: Generation, now: float) -> None:
        self.running -= 1
        self.counters["cached_tokens_total"].inc(generation.cached_tokens)
        if not self.is_counted:
            self.is_counted = True
            self.counters["prompt_tokens_total"].inc(len(generation.prompt_ids))
        if generation.finish == "abort":
            self.counters["num_aborted_requests_total"].inc()
        else:
            self.histograms["e2e_request_latency_seconds"].observe(now - self.submitted)

    def close(self) -> None:
        """The stream has ended; what still ran was aborted."""
        self.counters["num_requests_total"].inc()
        if self.running or not self.seen:
            self.counters["num_aborted_requests_total"].inc(max(1, self.running))
