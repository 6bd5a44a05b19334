"""The one event loop of the process, in a thread of its own: every program's work happens there."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_kept: set[asyncio.Task[Any]] = set()


def loop() -> asyncio.AbstractEventLoop:
    """The loop; started when it is first asked for."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="sgcore-lang", daemon=True).start()
        return _loop


def is_inside() -> bool:
    """Whether the caller runs on the loop."""
    try:
        return asyncio.get_running_loop() is _loop
    except RuntimeError:
        return False


def submit(work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Start work on the loop from any other thread."""
    return asyncio.run_coroutine_threadsafe(work, loop())


def wait(work: Coroutine[Any, Any, T]) -> T:
    """The result of work on the loop; blocks the caller. An interrupted wait cancels the work."""
    if is_inside():
        work.close()
        raise RuntimeError("an async program can't block: write `await` before this read")
    future = submit(work)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def join(work: Coroutine[Any, Any, T]) -> T:
    """The result of work on the loop, for a coroutine of any loop."""
    if is_inside():
        return await work
    return await asyncio.wrap_future(submit(work))


def keep(work: Coroutine[Any, Any, Any]) -> None:
    """Start work on the loop, from the loop, that nobody waits for."""
    task = asyncio.get_running_loop().create_task(work)
    _kept.add(task)
    task.add_done_callback(_kept.discard)


def call(function: Callable[[], None]) -> None:
    """Call a function on the loop, soon; at once if the caller is there."""
    if is_inside():
        function()
    else:
        loop().call_soon_threadsafe(function)
