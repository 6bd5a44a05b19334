"""Text as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from sgcore_lang import loop
from sgcore_lang.executor import Executor
from sgcore_lang.record import Item


class Stream:
    """New text of a variable, or of everything (`name` None), until there is no more to come.

    A state that wasn't run with `stream=True` gives a whole value at once.
    """

    def __init__(self, executor: Executor, name: str | None) -> None:
        self._executor = executor
        self._name = name
        self._shown = 0

    def texts(self) -> Iterator[str]:
        """Blocks for each new piece. Raises ProgramError if it can't be completed."""
        while (new := loop.wait(self._next())) is not None:
            yield new[0]

    async def texts_async(self, with_meta: bool) -> AsyncIterator[Any]:
        """The same for a coroutine of any loop."""
        while (new := await loop.join(self._next())) is not None:
            yield new if with_meta and self._name is not None else new[0]

    async def _next(self) -> tuple[str, Any] | None:
        """New text, and what is told of the variable by then."""
        await self._executor.until(lambda: len(self._text()) > self._shown or self._is_complete(), follows=True)
        new = self._text()[self._shown :]
        if new:
            self._shown += len(new)
            return new, self._meta()
        if not self._is_complete():
            self._executor.raise_error()
        return None

    def _is_complete(self) -> bool:
        return self._name is not None and self._executor.has(self._name)

    def _text(self) -> str:
        executor, name = self._executor, self._name
        if name is None:
            return executor.record.text_so_far()
        if executor.has(name):
            value = executor.variables[name]
            return value[0] if isinstance(value, list) else str(value)
        growing = self._growing()
        return "" if growing is None else growing.text

    def _meta(self) -> Any:
        """What the backend tells of the variable: all of it, or by now."""
        growing = self._growing()
        return self._executor.meta.get(self._name) if growing is None else growing.meta

    def _growing(self) -> Item | None:
        """What will be the variable's value; None: it is complete, or nothing has been asked for."""
        items = reversed(self._executor.record.items)
        return next((item for item in items if item.name == self._name and not item.is_known), None)
