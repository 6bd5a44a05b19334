"""Bodies in, bodies out: limits, JSON, and clear words for what is wrong with them."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgcore.errors import RequestError

T = TypeVar("T")
ENCODER = msgspec.json.Encoder()
FIELD = re.compile(r" - at `\$\.(\w+)")
UNKNOWN = re.compile(r"unknown field `(.*)`$", re.DOTALL)
"""At the body's top; deeper ones have a path behind them."""
MAX_BODIES = 16
"""Bodies of the largest size whose bytes may be held while they arrive."""
SMALL_BYTES = 1 << 18
MARKS = ((b"[", 1 << 17, "lists"), (b"{", 1 << 17, "objects"), (b'"', 1 << 20, "quotes"), (b",", 1 << 22, "commas"))
"""How many of each a body may have: with none of them it is parsed in 0.1 s, with all of one kind it took 6 s."""


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises `RequestError` 413 as soon as it is known to be too large."""
    service = request.app.state.service
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit_bytes:
        raise _too_large(limit_bytes)
    blocks: list[bytes] = []
    size = 0
    try:
        async for block in request.stream():
            size += len(block)
            service.held_bytes += len(block)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            if service.held_bytes > MAX_BODIES * limit_bytes:
                raise RequestError("too many large bodies arrive at once", status=503)
            blocks.append(block)
    finally:
        service.held_bytes -= size
    request.state.body_bytes = size
    return b"".join(blocks)


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(f"the body is larger than {limit_bytes} bytes (--max-body-bytes)", status=413)


def check_marks(body: bytes) -> None:
    """Refuse a body of so many small parts that to parse it would hold up everybody. Texts' own marks count too."""
    for mark, most, name in MARKS if len(body) > SMALL_BYTES else ():
        found = body.count(mark)
        if found > most:
            raise RequestError(f"the body has {found} {name}; {most} are allowed", status=413)


def parse(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as the decoder's type. Raises `RequestError` 400 that says where it is wrong."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error), decoder.type) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise RequestError("the body is nested too deeply") from error


def _wrong_field(message: str, kind: Any) -> RequestError:
    """The refusal of a field of the wrong type, or that the route doesn't know."""
    unknown = UNKNOWN.search(message)
    if unknown is None:
        field = FIELD.search(message)
        return RequestError(message, param=field[1] if field else None)
    name = unknown[1][:64]
    near = get_close_matches(name, kind.__struct_fields__, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "/openapi.json lists those that this route has"
    return RequestError(f"unknown field {name!r}; {hint}", param=name, code="unknown_parameter")


async def read(request: Request, decoder: msgspec.json.Decoder[T], limit_bytes: int) -> T:
    """The request's JSON body as the decoder's type."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        message = f"the content-type must be application/json, got {kind[:64]!r}"
        raise RequestError(message, status=415)
    body = await read_body(request, limit_bytes)
    check_marks(body)
    return parse(body, decoder)


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(ENCODER.encode(value), status, media_type="application/json")
