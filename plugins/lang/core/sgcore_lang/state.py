"""The state `s` of a program: what a body writes to and reads from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from sgcore.lang import Assign, Primitive, State, Steps, word_of
from sgcore_lang import loop
from sgcore_lang.backend import Message
from sgcore_lang.errors import ProgramError
from sgcore_lang.executor import Executor
from sgcore_lang.roles import Role, RoleBegin, RoleEnd
from sgcore_lang.streams import Stream
from sgcore_lang.where import where

S = TypeVar("S", bound="Writer")


class Set(Primitive):
    """Give a variable a value, in the order of the statements."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def run(self, state: State) -> Steps:
        yield Assign(self.name, self.value)

    def names(self) -> list[str]:
        return [self.name]


class Writer:
    """What sync and async states share: everything that doesn't wait."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.ret_value: Any = None

    def __iadd__(self: S, other: Primitive | str) -> S:
        if other is None:
            raise ValueError("nothing to add: got None")
        self.executor.submit(word_of(other), where())
        return self

    def set_var(self, name: str, value: Any) -> None:
        """Give a variable a value."""
        self.executor.submit(Set(name, value), where())

    def __setitem__(self, name: str, value: Any) -> None:
        self.set_var(name, value)

    def system(self, expr: Primitive | str | None = None) -> Any:
        """A turn of the system: of an expression, or as a `with` block."""
        return self._turn("system", expr)

    def user(self, expr: Primitive | str | None = None) -> Any:
        """A turn of the user: of an expression, or as a `with` block."""
        return self._turn("user", expr)

    def assistant(self, expr: Primitive | str | None = None) -> Any:
        """A turn of the assistant: of an expression, or as a `with` block."""
        return self._turn("assistant", expr)

    def _turn(self, role: str, expr: Primitive | str | None) -> Any:
        if expr is None:
            return self._turn_block(role)
        self.executor.submit(Role(role, word_of(expr)), where())
        return None

    @contextmanager
    def _turn_block(self, role: str) -> Iterator[None]:
        self.executor.submit(RoleBegin(role), where())
        yield
        self.executor.submit(RoleEnd(role), where())

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """What the block adds becomes the value of a variable."""
        from sgcore_lang.scopes import begin_scope, end_scope

        begin_scope(self.executor, name, where())
        yield
        end_scope(self.executor, name, where())

    def cancel(self) -> None:
        """End what runs; what isn't known yet will never be."""
        self.executor.cancel()

    @property
    def usage(self) -> dict[str, int]:
        """Requests made so far, and tokens as the backend counts them; forks included."""
        return {"requests": self.executor.usage.requests, **self.executor.usage.tokens}

    def text_async_iter(self, var_name: str | None = None, return_meta_data: bool = False) -> AsyncIterator[Any]:
        """New text of a variable, or of all, as it comes.

        With `return_meta_data` and a variable: pairs of new text and what the backend tells of the variable by then.
        """
        return Stream(self.executor, var_name).texts_async(return_meta_data)


class ProgramState(Writer):
    """A state whose reads block until the value is there. They raise `ProgramError` if it never will be."""

    def __getitem__(self, name: str | None) -> Any:
        return self.get_var(name)

    def get_var(self, name: str | None) -> Any:
        """A variable. Raises KeyError if no statement sets it."""
        return loop.wait(self.executor.value(name))

    def __contains__(self, name: str | None) -> bool:
        loop.wait(self.executor.until(lambda: self.executor.has(name)))
        return self.executor.has(name)

    def get_meta_info(self, name: str | None) -> Any:
        """What the backend tells of the generation that set a variable."""
        self.get_var(name)
        return self.executor.meta.get(name)

    def text(self) -> str:
        """All the text so far."""
        self._settle()
        return self.executor.record.text()

    def messages(self) -> list[Message]:
        """The conversation so far."""
        self._settle()
        return self.executor.record.messages()

    def sync(self) -> None:
        """Wait until everything is done, or has failed."""
        loop.wait(self.executor.settled())

    def error(self) -> ProgramError | None:
        """What went wrong, once everything is done; None: nothing."""
        self.sync()
        return self.executor.error

    def _settle(self) -> None:
        self.sync()
        self.executor.raise_error()

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        """New text of a variable, or of all, as it comes."""
        return Stream(self.executor, var_name).texts()

    def fork(self, size: int = 1, position_ids_offset: Any = None) -> Any:
        """`size` states that go on from here, as a group; `position_ids_offset` has no meaning and is ignored."""
        from sgcore_lang.group import ForkGroup

        return ForkGroup(self, size)

    def copy(self) -> AbstractContextManager[ProgramState]:
        """One fork, joined at the end of the block."""
        from sgcore_lang.group import copy

        return copy(self)


class AsyncProgramState(Writer):
    """A state whose reads are awaited: `await s["x"]`, `await s.text()`."""

    def __getitem__(self, name: str | None) -> Any:
        return self.get_var(name)

    async def get_var(self, name: str | None) -> Any:
        """A variable. Raises KeyError if no statement sets it."""
        return await loop.join(self.executor.value(name))

    async def get_meta_info(self, name: str | None) -> Any:
        """What the backend tells of the generation that set a variable."""
        await self.get_var(name)
        return self.executor.meta.get(name)

    async def has_var(self, name: str | None) -> bool:
        """What `in` says of a sync state."""
        await loop.join(self.executor.until(lambda: self.executor.has(name)))
        return self.executor.has(name)

    async def text(self) -> str:
        """All the text so far."""
        await self._settle()
        return self.executor.record.text()

    async def messages(self) -> list[Message]:
        """The conversation so far."""
        await self._settle()
        return self.executor.record.messages()

    async def sync(self) -> None:
        """Wait until everything is done, or has failed."""
        await loop.join(self.executor.settled())

    async def error(self) -> ProgramError | None:
        """What went wrong, once everything is done; None: nothing."""
        await self.sync()
        return self.executor.error

    async def _settle(self) -> None:
        await self.sync()
        self.executor.raise_error()

    def fork(self, size: int = 1, position_ids_offset: Any = None) -> Any:
        """`size` states that go on from here, as a group."""
        from sgcore_lang.group import ForkGroup

        return ForkGroup(self, size)
