"""What the log says of requests and of the load: numbers and names, never a text."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import Scope

from sgcore.engine.messages import Stats
from sgcore.server.metrics import RequestWatch

log = logging.getLogger(__name__)
QUIET_PATHS = frozenset({"/health", "/ready", "/ping", "/metrics"})
"""Asked every few seconds, and by nobody who wants to read of it."""
MAX_LOGGED_CHARS = 200
LOAD_EVERY_S = 10.0
CLIENT_LEFT = 499


@dataclass
class Work:
    """One HTTP request and what was computed for it."""

    request_id: str
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    """0: nothing was answered."""
    rid: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None

    def add(self, watch: RequestWatch) -> None:
        """A prompt has ended."""
        generation = watch.newest
        if generation is None:
            return
        self.rid = self.rid or generation.rid
        self.prompt_tokens += len(generation.prompt_ids)
        self.cached_tokens += generation.cached_tokens
        self.completion_tokens += sum(tokens for tokens, _ in watch.seen.values())
        if generation.first_token and self.first_token_s is None:
            self.first_token_s = generation.first_token - generation.created

    def describe(self) -> str:
        """Times, tokens and names."""
        parts = [f"in {time.monotonic() - self.began:.3f} s"]
        if self.rid:
            parts.append(f"{self.prompt_tokens} prompt tokens ({self.cached_tokens} cached)")
            parts.append(f"{self.completion_tokens} generated")
        if self.first_token_s is not None:
            parts.append(f"the first after {self.first_token_s:.3f} s")
        return ", ".join([*parts, f"rid {_printable(self.rid or self.request_id)}"])


CURRENT: ContextVar[Work | None] = ContextVar("work", default=None)
"""The request that this task works for."""


def note_failure(status: int) -> None:
    """A stream that began well has failed."""
    work = CURRENT.get()
    if work is not None:
        work.status = status


def log_request(scope: Scope, work: Work) -> None:
    """Say that a request has ended, and how."""
    level = logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO
    if log.isEnabledFor(level):
        path = scope.get("raw_path", b"").decode("ascii", "backslashreplace")
        log.log(level, "%s %s %d %s", scope["method"], _printable(path), work.status or CLIENT_LEFT, work.describe())


def _printable(text: str) -> str:
    return text[:MAX_LOGGED_CHARS].encode("unicode_escape").decode()


class LoadLog:
    """A line about the core's load every ten seconds while it has work."""

    def __init__(self) -> None:
        self._before, self._at = Stats(), time.monotonic()

    def tick(self, stats: Stats) -> None:
        """Write the line if it is time for it."""
        now = time.monotonic()
        if now - self._at < LOAD_EVERY_S:
            return
        line = load_line(self._before, stats, now - self._at)
        self._before, self._at = stats, now
        if line:
            log.info("%s", line)


def load_line(before: Stats, stats: Stats, seconds: float) -> str:
    """What was computed in between; empty if nothing was and nothing is there to compute."""
    prompt = max(0, stats.prompt_tokens_total - before.prompt_tokens_total)
    cached = max(0, stats.prefix_hit_tokens_total - before.prefix_hit_tokens_total)
    generated = max(0, stats.generated_tokens_total - before.generated_tokens_total)
    if not (prompt or generated or stats.running or stats.queued):
        return ""
    used = stats.used_tokens / max(1, stats.total_tokens)
    return (
        f"{stats.running} running, {stats.queued} queued; {prompt / seconds:.1f} tok/s in ({_share(cached, prompt)} "
        f"cached), {generated / seconds:.1f} tok/s out; KV cache {used:.0%} in use"
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "0%"
