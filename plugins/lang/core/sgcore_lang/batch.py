"""Many runs of one program, so many at a time, in order."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from sgcore_lang import loop
from sgcore_lang.default import backend_or_default, global_config
from sgcore_lang.state import AsyncProgramState, ProgramState

if TYPE_CHECKING:
    from sgcore_lang.program import SglFunction

THREADS, THREADS_A_CORE = 96, 16
"""Bodies at a time, as in SGLang: mostly they wait."""
ASYNC_RUNS = 1024
"""Async bodies at a time: they need no thread."""
AHEAD = 4
"""Runs queued for each that runs, so that one slow run doesn't keep the others from starting."""
WARM_UP_CHARS = 64
"""Shorter beginnings aren't computed ahead."""


def run_batch(
    program: SglFunction,
    batch_kwargs: Sequence[Any],
    *,
    backend: Any = None,
    num_threads: int | str = "auto",
    progress_bar: bool = False,
    generator_style: bool = False,
    hints: bool = True,
    **sampling: Any,
) -> Any:
    """See `SglFunction.run_batch`."""
    chosen = backend_or_default(backend)
    runs = [_arguments(program, entry) for entry in batch_kwargs]
    states = _states(program, runs, chosen, _width(program, num_threads, len(runs)), progress_bar, hints, sampling)
    return states if generator_style else list(states)


def _arguments(program: SglFunction, entry: Any) -> dict[str, Any]:
    if isinstance(entry, Mapping):
        return dict(entry)
    names = [name for name in program.arg_names if name not in program.bind_arguments]
    if not isinstance(entry, tuple | list) or len(entry) > len(names):
        raise ValueError(f"{program.__name__} takes ({', '.join(names)}), got {entry!r}")
    return dict(zip(names, entry, strict=False))


def _width(program: SglFunction, num_threads: int | str, count: int) -> int:
    if num_threads != "auto":
        return max(1, min(int(num_threads), count))
    most = ASYNC_RUNS if program.is_async else max(THREADS, THREADS_A_CORE * (os.cpu_count() or 1))
    return max(1, min(most, count))


def _states(
    program: SglFunction,
    runs: list[dict[str, Any]],
    backend: Any,
    width: int,
    progress_bar: bool,
    hints: bool,
    sampling: Mapping[str, Any],
) -> Iterator[ProgramState]:
    started: deque[tuple[ProgramState, Future[None]]] = deque()
    with ExitStack() as stack:
        if len(runs) > 1 and hints and global_config.enable_precache_with_tracing:
            _pin_prefix(program, backend, len(runs), stack)
        bar = stack.enter_context(_bar(len(runs))) if progress_bar else None
        start = stack.enter_context(_Starter(program, width))
        stack.callback(_end, started)
        waiting = deque(runs)
        while waiting or started:
            while waiting and len(started) < width * AHEAD:
                executor, arguments = program.prepare({**sampling, **waiting.popleft()}, backend, hints=hints)
                state = ProgramState(executor)
                started.append((state, start(state, arguments, bar)))
            state, future = started[0]
            future.result()
            started.popleft()
            yield state


def _end(started: deque[tuple[ProgramState, Future[None]]]) -> None:
    """Nobody wants what is left."""
    for state, future in started:
        future.cancel()
        state.cancel()


class _Starter:
    """Starts runs, `width` at a time: async bodies on the loop, others in threads. A run ends with its state."""

    def __init__(self, program: SglFunction, width: int) -> None:
        self._program = program
        self._pool = None if program.is_async else ThreadPoolExecutor(width, "sgcore-lang-run")
        self._free = asyncio.Semaphore(width)

    def __enter__(self) -> Callable[..., Future[None]]:
        return self._start

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, state: ProgramState, arguments: dict[str, Any], bar: Any) -> Future[None]:
        if self._pool is None:
            future = loop.submit(self._run_async(state, arguments))
        else:
            future = self._pool.submit(self._run, state, arguments)
        if bar is not None:
            future.add_done_callback(lambda _: bar.update())
        return future

    def _run(self, state: ProgramState, arguments: dict[str, Any]) -> None:
        self._program.run_body(state, (), arguments)
        state.sync()

    async def _run_async(self, state: ProgramState, arguments: dict[str, Any]) -> None:
        async with self._free:
            inner = AsyncProgramState(state.executor)
            await self._program.body(inner, (), arguments)
            state.ret_value = inner.ret_value
            await state.executor.settled()


def _pin_prefix(program: SglFunction, backend: Any, size: int, stack: ExitStack) -> None:
    """Have the program's constant beginning computed once and kept until the batch is done."""
    from sgcore_lang.trace import prefix, warm_up

    if backend.takes_programs and len(prefix(program).text) > WARM_UP_CHARS:
        group = uuid.uuid4().hex
        stack.callback(lambda: loop.wait(_release(backend, group)))
        loop.wait(warm_up(program, backend, (group, size)))


async def _release(backend: Any, group: str) -> None:
    """Let go of the prefix; a server that can't be reached will by its own time limit."""
    with suppress(Exception):
        await backend.release(group)


def _bar(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total)
