"""One state of a program: what it has said so far, and an ordered queue of what it is to say next.

No thread and, while nothing is to be done, no task of its own: a task on the language's loop works the queue off when
something is read, at a fork and at the end of the body. Until then pieces gather, so that they make one request.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sgcore.lang import Primitive
from sgcore_lang import loop
from sgcore_lang.backend import Backend
from sgcore_lang.errors import Cancelled, ProgramError, Where
from sgcore_lang.interpret import Interpreter
from sgcore_lang.record import Operation, Record

Action: TypeAlias = "Callable[[Executor], Awaitable[None]]"


@dataclass
class Usage:
    """What a program has cost: round trips, and tokens as the backend counts them."""

    requests: int = 0
    tokens: Counter[str] = field(default_factory=Counter)


class Executor:
    """The queue, its worker and its readers. Submitting is safe from any thread; coroutines run on the loop."""

    def __init__(
        self,
        backend: Backend,
        defaults: Mapping[str, Any],
        streams: bool = False,
        parent: Executor | None = None,
        hints: bool = True,
    ) -> None:
        self.backend = backend
        self.defaults = dict(defaults)
        self.variables: dict[str | None, Any] = {}
        self.meta: dict[str | None, Any] = {}
        self.record = Record()
        self.usage: Usage = Usage() if parent is None else parent.usage
        self.streams, self.hints = streams, hints
        self.error: ProgramError | None = None
        self.groups: set[str] = set()
        self.children: list[Executor] = []
        self.scopes: list[tuple[str, int]] = []
        """Open `var_scope` blocks: name, and the place in the record where each begins."""
        self.is_open = True
        self.interpreter = Interpreter(self)
        self._is_born = parent is None
        self._queue: deque[Operation] = deque()
        self._lock = threading.Lock()
        self._expected: Counter[str | None] = Counter()
        self._submitted = self._wanted = self._done = 0
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        self._reason: BaseException = Cancelled("the language's loop has ended")
        self._waiters: set[asyncio.Future[None]] = set()

    # -- from the program, on any thread -------------------------------------------------------------------------

    def submit(self, work: Primitive | Action, where: Where | None, names: Sequence[str | None] = ()) -> None:
        """Queue a statement and return at once."""
        operation = Operation(work, tuple(work.names() if isinstance(work, Primitive) else names), where)
        with self._lock:
            self._expected.update(operation.names)
            self._queue.append(operation)
            self._submitted += 1
        if self.streams:
            self.start()

    def start(self) -> None:
        """Work off what is queued by now."""
        wanted = self._submitted
        loop.call(lambda: self._start(wanted))

    def cancel(self, reason: BaseException | None = None) -> None:
        """End what runs, and drop what waits; who reads it is told `reason`."""
        loop.call(lambda: self._cancel(reason or Cancelled("the program was ended")))

    def finish(self) -> None:
        """The body has ended: do what is left, then let go of what was pinned for forks that were never joined."""
        wanted = self._submitted
        loop.call(lambda: self._finish(wanted))

    def names(self) -> set[str | None]:
        """Variables that it has or will have, as far as its statements tell."""
        with self._lock:
            return {*self.variables, *(name for name, count in self._expected.items() if count > 0)}

    # -- for readers, on the loop --------------------------------------------------------------------------------

    async def value(self, name: str | None) -> Any:
        """A variable, once every statement that sets it is done. Raises ProgramError, KeyError for an unknown one."""
        await self.until(lambda: self.has(name))
        if not self.has(name):
            self.raise_error()
        return self.variables[name]

    async def settled(self) -> None:
        """Until all that is queued by now is done, or has failed."""
        await self.until(lambda: False)

    async def until(self, is_enough: Callable[[], bool], follows: bool = False) -> None:
        """Until `is_enough`, or all that is queued by now is done; with `follows`, all that will be."""
        wanted = self._submitted
        self._start(wanted)
        while not is_enough() and self.error is None:
            is_done = self._is_born and self._done >= (self._submitted if follows else wanted)
            if is_done and not (follows and self.is_open):
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            await waiter

    def has(self, name: str | None) -> bool:
        """Whether a variable has its last value."""
        return name in self.variables and not self._expected[name]

    def raise_error(self) -> None:
        """Raise what ended this state, if something did."""
        if self.error is not None:
            raise ProgramError(self.error.reason, self.error.where) from self.error.__cause__

    def notify(self) -> None:
        """Something has changed: whoever waits looks again."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- for the work, on the loop -------------------------------------------------------------------------------

    def assign(self, name: str | None, value: Any, meta: Any = None) -> None:
        """Set a variable."""
        self.variables[name] = value
        self.meta[name] = meta

    def settle(self, operation: Operation) -> None:
        """One thing less that an operation waits for."""
        operation.waits_for -= 1
        if operation.waits_for == 0:
            with self._lock:
                self._expected.subtract(operation.names)
            self.notify()

    def be_born(self, parent: Executor) -> None:
        """Begin as what the parent is now."""
        self.variables, self.meta = dict(parent.variables), dict(parent.meta)
        self.record = parent.record.copy()
        self._is_born = True
        self.notify()
        self._work()

    def fail(self, error: BaseException, where: Where | None = None) -> None:
        """What is queued will not be done; who reads it is told why. The first failure counts."""
        if self.error is None:
            self.error = error if isinstance(error, ProgramError) else ProgramError(error, where)
            self.error.__cause__ = error.__cause__ if self.error is error else error
        self._queue.clear()
        self._done = self._wanted = self._submitted
        for child in self.children:
            if not child._is_born:
                child.fail(self.error)
        self._release_all()
        self.notify()

    async def release(self, group: str) -> None:
        """Let go of a pinned prefix. A backend that can't be reached will by its own time limit."""
        self.groups.discard(group)
        with suppress(Exception):
            await self.backend.release(group)

    def _finish(self, wanted: int) -> None:
        self.is_open = False
        self._start(wanted)
        self.notify()
        if self.children:
            loop.keep(self._release_at_end())

    def _start(self, wanted: int) -> None:
        if self.error is not None:
            self.fail(self.error)  # what was queued since is not done either
            return
        self._wanted = max(self._wanted, wanted)
        self._work()

    def _work(self) -> None:
        if self._task is None and self._is_born and self._done < self._wanted and self.error is None:
            self._has_begun = False
            self._task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        self._has_begun = True
        try:
            while self._done < self._wanted and self.error is None:
                batch = self._wanted - self._done
                for _ in range(batch):
                    await self._do(self._queue.popleft())
                await self.interpreter.flush()
                self._done += batch
                self.notify()
        except asyncio.CancelledError:
            self.fail(self._reason)
        except Exception as error:
            self.fail(error)
        finally:
            self._task = None

    async def _do(self, operation: Operation) -> None:
        try:
            if isinstance(operation.work, Primitive):
                await self.interpreter.run(operation)
            else:
                await operation.work(self)
        except ProgramError:
            raise
        except Exception as error:
            raise ProgramError(error, operation.where) from error
        self.settle(operation)

    def _cancel(self, reason: BaseException) -> None:
        for child in self.children:
            child._cancel(reason)
        self._reason = reason
        if self._task is not None:
            self._task.cancel()
            if not self._has_begun:  # then nothing within it says how it ended
                self._task = None
                self.fail(reason)
        elif self._done < self._submitted or self.is_open:
            self.fail(reason)
        self._release_all()

    def _release_all(self) -> None:
        for group in list(self.groups):
            loop.keep(self.release(group))

    async def _release_at_end(self) -> None:
        await self.settled()
        for child in self.children:
            await child.settled()
        self._release_all()
