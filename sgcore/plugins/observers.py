"""Tells plugins of finished requests without ever making a request wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from typing import Any

from sgcore.plugins.manager import Hooks


class Observers:
    """A thread that calls `sgcore_request_finished`, fed by a bounded queue that drops when it is full."""

    def __init__(self, hooks: Hooks, limit: int = 1024) -> None:
        self.dropped = 0
        self._hooks = hooks
        self._summaries: queue.Queue[Mapping[str, Any] | None] = queue.Queue(limit)
        self._thread = threading.Thread(target=self._run, name="sgcore-observers", daemon=True)
        self._thread.start()

    def finished(self, summary: Mapping[str, Any]) -> None:
        """Hand one summary over; never blocks."""
        try:
            self._summaries.put_nowait(summary)
        except queue.Full:
            self.dropped += 1

    def close(self, timeout_s: float = 5.0) -> None:
        """Let the observers see what is queued, for at most `timeout_s`."""
        try:
            self._summaries.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (summary := self._summaries.get()) is not None:
            self._hooks.all("sgcore_request_finished", summary=summary)
