"""Every refusal in one shape: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from sgcore.errors import RequestError, renamed

RETRY_AFTER_S = 1
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    499: "server_error",  # an abort that the server was asked for: the request was right
}


class ErrorInfo(msgspec.Struct):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct):
    """The body of every answer with status 400 and above."""

    error: ErrorInfo


def error_type(status: int) -> str:
    """OpenAI's word for a status."""
    return TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def error_body(error: RequestError) -> bytes:
    """The JSON body that says `error`."""
    return msgspec.json.encode(ErrorBody(ErrorInfo(str(error), error_type(error.status), error.param, error.code)))


def error_response(error: RequestError, headers: dict[str, str] | None = None) -> Response:
    """The answer that says `error`; 429 and 503 carry Retry-After, 408 and 413 end the connection."""
    extra = dict(headers or {})
    if error.status in (429, 503):
        extra.setdefault("retry-after", str(RETRY_AFTER_S))
    if error.status in (408, 413):
        extra["connection"] = "close"
    return Response(error_body(error), error.status, extra, "application/json")


async def on_request_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for `RequestError`; the route has left its names of fields in `request.state`."""
    assert isinstance(error, RequestError)
    return error_response(renamed(error, getattr(request.state, "field_names", {})))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's handler for its own refusals: no such route, no such method."""
    assert isinstance(error, HTTPException)
    messages = {
        404: f"no route {request.url.path}; /openapi.json lists them",
        405: f"{request.url.path} does not take {request.method}",
    }
    message = messages.get(error.status_code, error.detail)
    return error_response(RequestError(message, error.status_code), dict(error.headers or {}))


HANDLERS: dict[type[Exception] | int, ExceptionHandler] = {
    RequestError: on_request_error,
    HTTPException: on_http_exception,
}
"""What `Starlette(exception_handlers=...)` takes."""
