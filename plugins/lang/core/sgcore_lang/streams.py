"""Text as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from sgcore_lang import loop
from sgcore_lang.executor import Executor


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
        while (text := loop.wait(self._next())) is not None:
            yield text

    async def texts_async(self, with_meta: bool) -> AsyncIterator[Any]:
        """The same for a coroutine of any loop."""
        while (text := await loop.join(self._next())) is not None:
            yield (text, self._executor.meta.get(self._name)) if with_meta else text

    async def _next(self) -> str | None:
        await self._executor.until(lambda: len(self._text()) > self._shown or self._is_complete(), follows=True)
        new = self._text()[self._shown :]
        if new:
            self._shown += len(new)
            return new
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
        found = (item.text for item in reversed(executor.record.items) if item.name == name and not item.is_known)
        return next(found, "")
