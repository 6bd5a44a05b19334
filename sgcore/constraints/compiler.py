"""Constraints become grammars in threads of their own, bounded in time, number and memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from sgcore.api import Constraint, Grammar, GrammarBackend
from sgcore.constraints.progress import check_time
from sgcore.errors import ConstraintError

LIMIT_S = 5.0
"""A constraint that has not become a grammar by then is refused."""
FIRST_MASK_S = 0.01
"""Processor time of a first mask; usual ones take a tenth of a millisecond."""
THREADS = 2
WAIT_LIMIT_S = 60.0
"""A constraint that no thread has begun by then is refused for now: those before it hold all threads."""
MOST_JOBS = 64
"""Constraints in work at once; with more, the others wait their turn."""
CACHE_BYTES = 128 << 20
REFUSAL_BYTES = 1 << 10
NICENESS = 10
"""Of the compiling threads, so that the loop's come first."""


class Job:
    """One constraint on its way; `run` is called in another thread."""

    def __init__(self, work: Callable[[], Grammar]) -> None:
        self.began: float | None = None
        """Second of `time.monotonic()` when a thread took it."""
        self._asked = time.monotonic()
        self._work = work
        self._outcome: Grammar | ConstraintError | None = None

    def run(self) -> None:
        self.began = time.monotonic()
        try:
            self._outcome = self._work()
        except ConstraintError as error:
            self._outcome = error
        except Exception as error:  # a backend's bug is a refusal, and nothing else
            self._outcome = ConstraintError(f"{type(error).__name__}: {error}")

    def outcome(self) -> Grammar | ConstraintError | None:
        """The grammar, or why there is none; None while it waits or is in work."""
        now = time.monotonic()
        if self.began is None:
            is_late = now - self._asked > WAIT_LIMIT_S
            return ConstraintError("too many constraints are compiled: try again later", 503) if is_late else None
        if self._outcome is None and now - self.began > LIMIT_S:
            return ConstraintError(f"the constraint took longer than {LIMIT_S:.0f} s to compile: simplify it")
        return self._outcome


class Compiler:
    """Grammars by constraint, each compiled once. Called by one thread; the work is done in others."""

    def __init__(self, create: Callable[[], GrammarBackend], vocab_size: int) -> None:
        """`create` makes the backend, once, in a thread."""
        self._vocab_size = vocab_size
        self._pool = ThreadPoolExecutor(THREADS, "sgcore-grammar", initializer=_yield_to_others)
        self._backend: Future[GrammarBackend] = self._pool.submit(create)
        self._cache: OrderedDict[bytes, tuple[Grammar | ConstraintError, int]] = OrderedDict()
        self._cached_bytes = 0
        self._jobs: dict[bytes, Job] = {}

    def grammar(self, constraint: Constraint, key: bytes) -> Grammar | ConstraintError | None:
        """What has become of a constraint, which this asks for; None: ask again later. `key` is `constraint_key`'s."""
        found = self._cache.get(key)
        if found is not None and isinstance(found[0], Grammar) and found[0].has_failed:
            self._cached_bytes -= self._cache.pop(key)[1]
        elif found is not None:
            self._cache.move_to_end(key)
            return found[0]
        job = self._jobs.get(key)
        if job is None:
            if not self._backend.done() or len(self._jobs) >= MOST_JOBS:
                return None
            job = self._jobs[key] = Job(lambda: self._compile(constraint))
            self._pool.submit(job.run)
        has_begun = job.began is not None
        outcome = job.outcome()
        if outcome is not None and has_begun:
            del self._jobs[key]
            self._keep(key, outcome)
        return outcome

    def _compile(self, constraint: Constraint) -> Grammar:
        """Compile, and try a first token: what is slow there would slow every step."""
        grammar = self._backend.result().compile(constraint)
        mask = np.empty(-(-self._vocab_size // 32), np.int32)
        try:
            for _ in range(2):  # the first time builds what later masks use
                matcher = grammar.start()
                began = time.thread_time()
                if not matcher.is_complete:
                    matcher.fill(mask)
        except ConstraintError as error:
            raise ConstraintError(f"no output can satisfy the constraint: {error}") from error
        check_time(began, FIRST_MASK_S)
        return grammar

    def _keep(self, key: bytes, outcome: Grammar | ConstraintError) -> None:
        size = outcome.size_bytes if isinstance(outcome, Grammar) else REFUSAL_BYTES
        self._cache[key] = outcome, size
        self._cached_bytes += size
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            _, (_, freed) = self._cache.popitem(last=False)
            self._cached_bytes -= freed

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def constraint_key(constraint: Constraint) -> bytes:
    """The same for the same constraint."""
    return hashlib.blake2b(f"{constraint.kind}:{constraint.text}".encode(), digest_size=16).digest()


def _yield_to_others() -> None:
    """On Linux a thread has a priority of its own."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
