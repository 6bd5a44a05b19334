"""From requests to calls of a backend, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sgcore.lang import (
    Append,
    Assign,
    BeginTurn,
    Capture,
    EndTurn,
    Generate,
    Generated,
    Mark,
    Media,
    Position,
    Rewind,
    Score,
    TextSince,
)
from sgcore_lang.backend import Call, Progress, Reply
from sgcore_lang.errors import ProgramError
from sgcore_lang.record import Item, Operation

if TYPE_CHECKING:
    from sgcore_lang.executor import Executor


class Interpreter:
    """Runs the words of one state: gathers what can wait, and asks the backend when a result is needed."""

    def __init__(self, state: Executor) -> None:
        self._state = state

    @property
    def variables(self) -> Mapping[str | None, Any]:
        """What a word may read."""
        return self._state.variables

    @property
    def role(self) -> str | None:
        """Whose turn it is."""
        return self._state.record.role

    async def run(self, operation: Operation) -> None:
        """Do a statement; what it keeps under a name may come later."""
        steps = operation.work.run(self)
        result: Any = None
        while True:
            try:
                request = steps.send(result)
            except StopIteration:
                return
            result = await self._answer(request, operation)

    async def _answer(self, request: Any, operation: Operation) -> Any:
        match request:
            case Append(text):
                self._state.record.items.append(Item(operation, text, text))
            case Media():
                self._state.record.items.append(Item(operation, request))
            case Capture(name, what):
                operation.waits_for += 1
                await self._ask(what, operation, is_kept=True, name=name)
            case Generate() | Score():
                item = await self._ask(request, operation)
                await self.flush()
                return item.result
            case BeginTurn(role):
                await self._begin(role, operation)
            case EndTurn(role):
                await self._end(role, operation)
            case Assign(name, value, meta):
                self._state.assign(name, value, meta)
            case Mark() | TextSince() | Rewind():
                await self.flush()
                return self._place(request)
            case _:
                raise TypeError(f"a word yielded {request!r}, which is no request of sgcore.lang")
        return None

    def _place(self, request: Mark | TextSince | Rewind) -> Any:
        record = self._state.record
        if isinstance(request, Mark):
            return Position(len(record.items))
        if isinstance(request, TextSince):
            return record.text(request.position.place)
        return record.rewind(request.position.place)

    async def _ask(
        self, request: Generate | Score, operation: Operation, is_kept: bool = False, name: str | None = None
    ) -> Item:
        piece: Generate | Score = request
        if isinstance(request, Generate):
            piece = replace(request, params=await self._params(request.params))
        item = Item(operation, piece, is_known=False, is_kept=is_kept, name=name)
        self._state.record.items.append(item)
        return item

    async def _params(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The run's parameters with the generation's own, and the tokens that end the assistant's turn."""
        params = {**self._state.defaults, **given}
        if self.role is not None:
            ends = (await self._state.backend.turns()).stop_token_ids
            if ends:
                params["stop_token_ids"] = [*(params.get("stop_token_ids") or ()), *ends]
        return params

    async def _begin(self, role: str, operation: Operation) -> None:
        record, turns = self._state.record, await self._state.backend.turns()
        if record.role is not None:
            raise ValueError(f"roles don't nest: {role!r} begins within {record.role!r}")
        text, record.is_rendered_whole = "", not turns.is_concatenative
        if turns.is_concatenative:
            if role not in turns.roles:
                raise ValueError(f"the model's chat template has no role {role!r}; it has {', '.join(turns.roles)}")
            text = ("" if record.items else turns.start.get(role, "")) + turns.roles[role][0]
        record.items.append(Item(operation, text, text, begins=role))
        record.role = role

    async def _end(self, role: str, operation: Operation) -> None:
        record, turns = self._state.record, await self._state.backend.turns()
        if record.role != role:
            raise ValueError(f"the turn of {role!r} ends, but the one that is open is {record.role!r}'s")
        text = turns.roles[role][1] if turns.is_concatenative else ""
        record.items.append(Item(operation, text, text, ends=role))
        record.role = None

    # -- asking the backend --------------------------------------------------------------------------------------

    async def flush(self, group: tuple[str, int] | None = None) -> None:
        """Ask for everything that is still to come; with a group also have all of it kept."""
        record = self._state.record
        while items := self._next_items(wants_all=group is not None):
            await self._send(items, group if len(items) == len(record.pending) else None)
        if group is not None and group[0] not in self._state.groups and record.items:
            await self._send([], group)

    def _next_items(self, wants_all: bool) -> list[Item]:
        """What the next request brings: up to the last that asks the model, or the first, if one is all it can do."""
        record = self._state.record
        pending = record.pending
        asking = [place for place, item in enumerate(pending, 1) if not item.is_known]
        if not self._state.backend.takes_programs or record.is_rendered_whole:
            return pending[: asking[0]] if asking else []
        if wants_all:
            return pending
        return pending[: asking[-1]] if asking else []

    async def _send(self, items: list[Item], group: tuple[str, int] | None) -> None:
        state, record = self._state, self._state.record
        asking = [item for item in items if not item.is_known]
        blamed = (asking or items or record.items)[0].operation.where
        try:
            call = await self._call(items, group)
            state.usage.requests += 1
            if group is not None:
                state.groups.add(group[0])
            reply = await state.backend.run(call, self._progress(items) if state.streams else None)
        except Exception as error:
            raise ProgramError(error, blamed) from error
        state.usage.tokens.update(reply.counts)
        self._fill(asking, reply)
        record.acknowledge(len(items), reply.ids)

    async def _call(self, items: list[Item], group: tuple[str, int] | None) -> Call:
        record = self._state.record
        known = next((place for place, item in enumerate(items) if not item.is_known), len(items))
        place = record.sent + known
        messages, role = record.messages(place), record.role_at(place)
        if not record.is_rendered_whole:
            pieces = [item.piece for item in items if item.piece != ""]
            return Call(pieces, record.text(end=record.sent), record.ids, messages, role, group)
        continues = role is not None and bool(messages[-1]["content"])
        if role is not None and not continues:
            messages.pop()
        ids = await self._state.backend.render(messages, continues)
        return Call([item.piece for item in items[known:]], "", ids, messages, role)

    def _progress(self, items: list[Item]) -> Progress:
        told = [item for item in items if item.piece != ""]

        def progress(place: int, text: str, meta: Mapping[str, Any] | None = None, /) -> None:
            told[place].text, told[place].meta = text, meta
            self._state.notify()

        return progress

    def _fill(self, asking: list[Item], reply: Reply) -> None:
        """Give each item its result, and each variable its value."""
        for item, result in zip(asking, reply.results, strict=False):
            item.piece, item.text, item.is_known = result.text, result.text, True
            if item.is_kept:
                self._keep(item, result)
            else:
                item.result = result
        if reply.error is not None:
            raise ProgramError(reply.error, asking[len(reply.results)].operation.where) from reply.error

    def _keep(self, item: Item, result: Generated) -> None:
        value = list(result.texts) if len(result.texts) > 1 else result.text
        self._state.assign(item.name, value, result.meta)
        self._state.settle(item.operation)
