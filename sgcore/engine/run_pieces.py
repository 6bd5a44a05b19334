"""Programs of pieces in process: the engine's side of `sgcore.engine.program`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from sgcore.engine.frontend import Frontend
from sgcore.engine.generation import Changes
from sgcore.engine.pieces import Group, check_group, pieces_from
from sgcore.engine.program import SCORING, Program, run_program
from sgcore.engine.prompt import Prompt
from sgcore.errors import RequestError

Reply = dict[str, Any]


def make_program(
    frontend: Frontend,
    pieces: list[Any],
    prompt: Any,
    input_ids: Any,
    group: Mapping[str, Any] | None,
    rid: str | None,
    timeout_s: float | None,
) -> Program:
    """A program from a client's values. Raises RequestError."""
    if prompt is not None and (input_ids is not None or not isinstance(prompt, str)):
        raise RequestError("with pieces, give at most one of prompt (a text) and input_ids", param="prompt")
    try:
        shared_group = None if group is None else check_group(msgspec.convert(group, Group))
        ids = msgspec.convert(input_ids or [], list[int])
    except msgspec.ValidationError as error:
        raise RequestError(f"{error}", param="group" if input_ids is None else "input_ids") from error
    shared = Prompt(sampling=SCORING, rid=rid, timeout_s=timeout_s)
    return Program(frontend, pieces_from(pieces), prompt, ids, shared_group, shared)


def run_pieces(frontend: Frontend, program: Program, stream: bool) -> Any:
    """The program's reply; with `stream` an iterator of pieces as they grow, and the reply at its end."""
    if stream:
        return _follow(frontend, program)
    for _ in _follow(frontend, program):
        pass
    return program.reply()


def _follow(frontend: Frontend, program: Program) -> Iterator[Reply]:
    while (prompts := program.advance()) is not None:
        try:
            for place, generation in frontend.stream(*prompts):
                program.take(place, generation)
                yield from program.progress([(place, generation)])
        except RequestError as error:
            program.fail(error)
            break
    yield program.reply()


async def arun_pieces(frontend: Frontend, program: Program) -> AsyncGenerator[Reply, None]:
    """Pieces as they grow, and the reply at the end. Closing it ends what runs."""

    def run(prompts: list[Prompt]) -> AsyncGenerator[Changes, None]:
        return frontend.astream(*prompts)

    async with aclosing(run_program(program, run)) as batches:
        async for changes in batches:
            for reply in program.progress(changes):
                yield reply
    yield program.reply()


async def last(replies: AsyncGenerator[Reply, None]) -> Reply:
    """The last of several replies."""
    async with aclosing(replies):
        async for reply in replies:
            found = reply
    return found
