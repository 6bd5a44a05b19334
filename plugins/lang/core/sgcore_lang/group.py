"""States that go on side by side from one place, and how they come together again."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sgcore.lang import Primitive
from sgcore_lang.executor import Executor
from sgcore_lang.record import Record
from sgcore_lang.state import ProgramState, Writer
from sgcore_lang.where import where

GATHER, APPEND = "gather_variable", "concate_and_append"


class ForkGroup:
    """`size` states, which begin when the parent has come to the fork; the prefix is kept until join."""

    def __init__(self, parent: Writer, size: int) -> None:
        if size < 1:
            raise ValueError(f"a fork needs at least one state, got {size}")
        self._parent = parent
        self._id = uuid.uuid4().hex
        owner = parent.executor
        children = [Executor(owner.backend, owner.defaults, owner.streams, owner, owner.hints) for _ in range(size)]
        self.states = [type(parent)(child) for child in children]
        owner.children += children
        self._is_joined = False
        hint = (self._id, size) if size > 1 and owner.hints and owner.backend.takes_programs else None

        async def fork(state: Executor) -> None:
            await state.interpreter.flush(None if state.record.is_rendered_whole else hint)
            for child in children:
                child.be_born(state)
            self._place = len(state.record.items)

        owner.submit(fork, where())
        owner.start()

    def __getitem__(self, place: int) -> Any:
        return self.states[place]

    def __setitem__(self, place: int, state: Any) -> None:
        """Take back what `forks[place] += ...` gives. Raises TypeError for anything but the state that is there."""
        if self.states[place] is not state:
            raise TypeError("a fork can't be replaced; add to it with forks[i] += ...")

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.states)

    def __iadd__(self, other: Primitive | str | Sequence[Any] | Callable[[int], Any]) -> ForkGroup:
        """Add the same to all, a list's entries to one each, or what a function says for each place."""
        for state, word in zip(self.states, self._spread(other), strict=True):
            state += word
        return self

    def _spread(self, other: Any) -> Sequence[Any]:
        if callable(other) and not isinstance(other, Primitive):
            return [other(place) for place in range(len(self))]
        if isinstance(other, list | tuple):
            if len(other) != len(self):
                raise ValueError(f"{len(other)} entries for {len(self)} states")
            return other
        return [other] * len(self)

    def join(self, mode: str = GATHER) -> None:
        """Bring the states' results to the parent.

        `gather_variable`: each variable that is new in them becomes the parent's, as a list in their order (None where
        one has no such variable). `concate_and_append`: what each has added is added to the parent, in their order.
        """
        if mode not in (GATHER, APPEND):
            raise ValueError(f"unknown join mode {mode!r}; known: {GATHER}, {APPEND}")
        if self._is_joined:
            raise ValueError("the group has been joined already")
        self._is_joined = True
        owner, children = self._parent.executor, [state.executor for state in self.states]
        names = {name for child in children for name in child.names()} if mode == GATHER else set()
        for child in children:
            child.finish()

        async def join(state: Executor) -> None:
            await state.interpreter.flush()
            for child in children:
                await child.settled()
                child.raise_error()
            (_gather if mode == GATHER else self._append)(state, children)
            await state.release(self._id)
            state.children = [child for child in state.children if child not in children]

        owner.submit(join, where(), sorted(names, key=str))
        owner.start()

    def _append(self, state: Executor, children: list[Executor]) -> None:
        base = list(state.record.ids or ())
        for child in children:
            _take_over(state.record, child.record, self._place, base)


def _gather(state: Executor, children: list[Executor]) -> None:
    new = dict.fromkeys(name for child in children for name in child.variables if name not in state.variables)
    for name in new:
        metas = [child.meta.get(name) for child in children]
        state.assign(name, [child.variables.get(name) for child in children], metas)


def _take_over(record: Record, other: Record, place: int, base: list[int]) -> None:
    """Add what `other` has said from `place` on: as tokens where both know them, as text otherwise."""
    ids = list(other.ids or ())
    if base and not record.pending and ids[: len(base)] == base and other.sent >= place:
        record.ids = [*(record.ids or ()), *ids[len(base) :]]
        record.sent += other.sent - place
    record.items += other.items[place:]
    record.role = record.role_at(len(record.items))


@contextmanager
def copy(state: ProgramState) -> Iterator[Any]:
    """One fork, joined at the end of the block."""
    group = ForkGroup(state, 1)
    yield group[0]
    group.join()
