"""`/generate`, with programs: several pieces of text, generations and choices in one request."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgcore.engine.generation import Changes
from sgcore.engine.limits import check_name
from sgcore.engine.pieces import MAX_GROUP_CHARS, check_group, check_pieces
from sgcore.engine.program import SCORING, Program, run_program
from sgcore.engine.prompt import Prompt
from sgcore.errors import RequestError
from sgcore.server.fields import Unsupported, refuse_unsupported
from sgcore.server.native import (
    DECODER,
    GenerateRequest,
    check_ids,
    generate_prompts,
    request_ids,
)
from sgcore.server.service import BYTES_A_CHAR, Service
from sgcore.server.sse import EventStream, event, or_disconnect
from sgcore.server.wire import ENCODER, json_response, read

NOT_OF_PROGRAMS = ("sampling_params", "return_logprob", "logprob_start_len", "top_logprobs_num", "token_ids_logprob")
"""Fields of a request that each generation of a program has of its own."""


class ReleaseRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A group whose requests have ended."""

    id: str
    cache_salt: str | None = None
    extra_key: str | None = None


RELEASE = msgspec.json.Decoder(ReleaseRequest)


async def generate(request: Request) -> Response:
    """Continue text or token ids, or run a program of pieces."""
    service: Service = request.app.state.service
    body = await read(request, DECODER, service.options.max_body_bytes)
    given = next((name for name in ("pieces", "input_ids") if getattr(body, name) is not None), "text")
    request.state.field_names = {"prompt": given}
    if body.pieces is None:
        return await generate_prompts(request, service, body)
    program = await service.off_loop(request.state.body_bytes // BYTES_A_CHAR, program_of, service, body)
    if body.stream:
        return EventStream(_events(service, program))
    await or_disconnect(request, _complete(service, program))
    return json_response(program.reply())


def program_of(service: Service, body: GenerateRequest) -> Program:
    """The program of a request, validated. Raises `RequestError` 400."""
    refuse_unsupported(body, Unsupported)
    for name in NOT_OF_PROGRAMS:
        if getattr(body, name):
            raise RequestError(f"with pieces, {name} stands in each gen", param=name)
    if body.text is not None and body.input_ids is not None:
        raise RequestError("give at most one of text and input_ids", param="text")
    if body.text is not None and not isinstance(body.text, str):
        raise RequestError("a program has one text", param="text")
    (rid,) = request_ids(body.rid, 1)
    shared = Prompt(
        sampling=SCORING,
        rid=rid,
        timeout_s=body.timeout,
        namespace=body.cache_salt or body.extra_key or "",
    )
    ids = check_ids(body.input_ids, "input_ids") if body.input_ids is not None else None
    pieces = check_pieces(body.pieces or [])
    return Program(service.frontend, pieces, body.text, ids, check_group(body.group), shared)


def _run(service: Service, program: Program) -> AsyncGenerator[Changes, None]:
    async def advance() -> list[Prompt] | None:
        return await service.off_loop(program.chars, program.advance)

    return run_program(program, service.run, advance)


async def _complete(service: Service, program: Program) -> None:
    async with aclosing(_run(service, program)) as batches:
        async for _ in batches:
            pass


async def _events(service: Service, program: Program) -> AsyncGenerator[bytes, None]:
    """The growing piece after each change, each piece's result when it is complete, and the whole reply at the end."""
    told = program.given
    async with aclosing(_run(service, program)) as batches:
        async for changes in batches:
            events, told = _news(program, told)
            events += list(program.progress(changes))
            yield b"".join(event(ENCODER.encode(each)) for each in events)
    events, _ = _news(program, told)
    yield b"".join(event(ENCODER.encode(each)) for each in [*events, program.reply()])


def _news(program: Program, told: int) -> tuple[list[dict[str, Any]], int]:
    results = program.results[told:]
    return [{"piece": told - program.given + n, "result": result} for n, result in enumerate(results)], told + len(
        results
    )


async def release_group(request: Request) -> Response:
    """Let go of a group's pinned prefix. 200 whether or not there was one."""
    service: Service = request.app.state.service
    body = await read(request, RELEASE, service.options.max_body_bytes)
    check_name("id", body.id, 1, MAX_GROUP_CHARS)
    service.frontend.unpin(body.id, body.cache_salt or body.extra_key or "")
    return json_response({})
