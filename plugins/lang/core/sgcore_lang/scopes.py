"""`var_scope`: what a block adds, as a variable."""

from __future__ import annotations

from sgcore_lang.errors import Where
from sgcore_lang.executor import Executor


def begin_scope(executor: Executor, name: str, where: Where | None) -> None:
    """Remember where the block begins."""

    async def begin(state: Executor) -> None:
        state.scopes.append((name, len(state.record.items)))

    executor.submit(begin, where)


def end_scope(executor: Executor, name: str, where: Where | None) -> None:
    """Keep what was added since; asks the backend for what of it is still to come."""

    async def end(state: Executor) -> None:
        await state.interpreter.flush()
        opened, place = state.scopes.pop()
        assert opened == name
        state.assign(name, state.record.text(place))

    executor.submit(end, where, [name])
