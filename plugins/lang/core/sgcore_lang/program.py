"""`@function`: a program, and the ways to run it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sgcore_lang import loop
from sgcore_lang.default import backend_or_default, global_config
from sgcore_lang.executor import Executor
from sgcore_lang.sampling import RUN_DEFAULTS, run_parameters
from sgcore_lang.state import AsyncProgramState, ProgramState

PRINTS_TEXT = 2
"""`global_config.verbosity` from which the text of each run is printed."""


class SglFunction:
    """A function whose first parameter is the state `s`; made by `function`.

    Sampling arguments (`RUN_DEFAULTS`, or `max_tokens` for `max_new_tokens`) are taken by `run`, all others go to the
    function. `hints=False` sends no fork hints.
    """

    def __init__(
        self, func: Callable[..., Any], num_api_spec_tokens: int | None = None, bound: Mapping[str, Any] | None = None
    ) -> None:
        parameters = list(inspect.signature(func).parameters)
        if parameters[:1] != ["s"]:
            raise TypeError(f"the first parameter of {func.__name__} must be named s")
        self.func = func
        self.num_api_spec_tokens = num_api_spec_tokens
        self.bind_arguments = dict(bound or {})
        self.arg_names = parameters[1:]
        self.is_async = inspect.iscoroutinefunction(func)
        self.__name__ = func.__name__
        self.__doc__ = func.__doc__

    def bind(self, **kwargs: Any) -> SglFunction:
        """The same function with some arguments fixed; they win over those of `run`."""
        unknown = [name for name in kwargs if name not in self.arg_names]
        if unknown:
            raise TypeError(f"{self.__name__} has no parameter {unknown[0]!r}")
        return SglFunction(self.func, self.num_api_spec_tokens, {**self.bind_arguments, **kwargs})

    def run(
        self,
        *args: Any,
        stream: bool = False,
        backend: Any = None,
        use_thread: bool = True,
        hints: bool = True,
        **kwargs: Any,
    ) -> ProgramState:
        """Run the body and give its state; what it has asked for may still be on its way.

        With `stream` the body runs in a thread and the state comes at once. `use_thread` is SGLang's, and has no
        meaning here. What the body raises is raised, and ends what runs.
        """
        executor, arguments = self.prepare(kwargs, backend, stream, hints)
        state = ProgramState(executor)
        if stream:
            threading.Thread(target=self._run_quietly, args=(state, args, arguments), daemon=True).start()
        else:
            self.run_body(state, args, arguments)
        return state

    async def run_async(self, *args: Any, backend: Any = None, hints: bool = True, **kwargs: Any) -> AsyncProgramState:
        """`run` for coroutines of any loop. An async body runs on the language's own, another in a thread."""
        executor, arguments = self.prepare(kwargs, backend, False, hints)
        state = AsyncProgramState(executor)
        await loop.join(self.body(state, args, arguments))
        return state

    def run_batch(self, batch_kwargs: Sequence[Any], **options: Any) -> Any:
        """Run once for each entry (keyword arguments, or a tuple of arguments); the states in the same order.

        Options: `run`'s sampling arguments, `backend`, `num_threads` ("auto" or how many at a time),
        `progress_bar`, `generator_style` (an iterator of states instead of a list), `hints`.
        """
        from sgcore_lang.batch import run_batch

        return run_batch(self, batch_kwargs, **options)

    def trace(self, *, backend: Any = None, **kwargs: Any) -> Any:
        """What the body says, without asking a model: arguments and variables are placeholders."""
        from sgcore_lang.trace import trace

        return trace(self, {**kwargs, **self.bind_arguments})

    def cache(self, backend: Any = None) -> None:
        """Have the backend compute the constant beginning of the program."""
        from sgcore_lang.trace import warm_up

        loop.wait(warm_up(self, backend_or_default(backend)))

    def __call__(self, *args: Any, **kwargs: Any) -> ProgramState:
        return self.run(*args, **kwargs)

    # -- for batches ---------------------------------------------------------------------------------------------

    def prepare(
        self, given: Mapping[str, Any], backend: Any, streams: bool = False, hints: bool = True
    ) -> tuple[Executor, dict[str, Any]]:
        """A state for a run, and the function's own arguments."""
        sampling = {name: given[name] for name in RUN_DEFAULTS if name in given and name not in self.arg_names}
        arguments = {name: value for name, value in given.items() if name not in sampling}
        defaults = {**global_config.sampling(), **run_parameters(sampling)}
        executor = Executor(backend_or_default(backend), defaults, streams, hints=hints)
        return executor, {**arguments, **self.bind_arguments}

    def run_body(self, state: ProgramState, args: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        """Run the body on the caller's thread; what it raises ends what runs."""
        if self.is_async:
            inner = AsyncProgramState(state.executor)
            loop.wait(self.body(inner, args, arguments))
            state.ret_value = inner.ret_value
        else:
            self._run_plain(state, args, arguments)
        if global_config.verbosity >= PRINTS_TEXT:
            print(state.text())

    def _run_plain(self, state: ProgramState, args: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        try:
            state.ret_value = self.func(state, *args, **arguments)
        except BaseException as error:
            state.executor.cancel(error)
            raise
        finally:
            state.executor.finish()

    async def body(self, state: AsyncProgramState, args: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        """Run the body on the loop, or in a thread if it isn't async."""
        if not self.is_async:
            await self._body_in_thread(state, args, arguments)
            return
        try:
            state.ret_value = await self.func(state, *args, **arguments)
        except BaseException as error:
            state.executor.cancel(error)
            raise
        finally:
            state.executor.finish()

    async def _body_in_thread(
        self, state: AsyncProgramState, args: Sequence[Any], arguments: Mapping[str, Any]
    ) -> None:
        import asyncio

        inner = ProgramState(state.executor)
        try:
            await asyncio.to_thread(self.run_body, inner, args, arguments)
        except asyncio.CancelledError:
            state.cancel()
            raise
        state.ret_value = inner.ret_value

    def _run_quietly(self, state: ProgramState, args: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        """The body of a stream: what it raises is raised where the state is read."""
        with suppress(Exception):
            self.run_body(state, args, arguments)


def function(
    func: Callable[..., Any] | None = None, num_api_spec_tokens: int | None = None
) -> SglFunction | Callable[[Callable[..., Any]], SglFunction]:
    """Make a program of a function whose first parameter is `s`."""
    if func is not None:
        return SglFunction(func)
    return lambda inner: SglFunction(inner, num_api_spec_tokens)
