"""OpenAPI 3.1 from the route table and the wire types."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sgcore import __version__
from sgcore.server.auth import OPEN_PATHS
from sgcore.server.errors import ErrorBody
from sgcore.server.routes import ROUTES, Entry

REFERENCE = "#/components/schemas/{name}"
REFUSALS = {
    "400": "The request is wrong; the message says where.",
    "401": "The API key is missing or wrong.",
    "404": "No such model.",
    "413": "The body is too large.",
    "415": "The body isn't JSON.",
    "429": "The queue is full.",
    "500": "Internal error.",
    "503": "Starting, shutting down, or failed.",
    "504": "The request's own timeout has passed.",
}
WITHOUT_BODY = ("400", "401", "404", "500", "503")


def document() -> dict[str, Any]:
    """The whole description."""
    types = [ErrorBody, *dict.fromkeys(kind for entry in ROUTES for kind in (entry.body, entry.reply) if kind)]
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {"title": "sgcore", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": {_template(path): _path_item(path, entry, schema_of) for entry in ROUTES for path in entry.paths},
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _template(path: str) -> str:
    """Starlette's path with converters, as OpenAPI's template."""
    return re.sub(r":\w+}", "}", path)


def _path_item(path: str, entry: Entry, schema_of: dict[str, Any]) -> dict[str, Any]:
    return {method.lower(): _operation(path, method, entry, schema_of) for method in entry.methods}


def _operation(path: str, method: str, entry: Entry, schema_of: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": entry.summary,
        "operationId": method.lower() + re.sub(r"\W+", "_", path).rstrip("_"),
        "security": [] if path in OPEN_PATHS else [{}, {"key": []}],
        "responses": _responses(entry, schema_of),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)", path)
    ]
    if parameters:
        operation["parameters"] = parameters
    if entry.body is not None:
        content = {"application/json": {"schema": schema_of[repr(entry.body)]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _responses(entry: Entry, schema_of: dict[str, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "Success."}
    if entry.media:
        success["content"] = {entry.media: {"schema": _reply_schema(entry, schema_of)}}
        if "stream" in getattr(entry.body, "__struct_fields__", ()):
            success["content"]["text/event-stream"] = {}
    if not entry.media:
        return {"200": success, "503": {"description": "Not ready."}, "401": _refusal("401", schema_of)}
    statuses = REFUSALS if entry.body is not None else WITHOUT_BODY
    return {"200": success} | {status: _refusal(status, schema_of) for status in statuses}


def _reply_schema(entry: Entry, schema_of: dict[str, Any]) -> dict[str, Any]:
    if entry.reply is None:
        return {"type": "string"}
    schema: dict[str, Any] = schema_of[repr(entry.reply)]
    if entry.paths == ("/generate",):
        return {"anyOf": [schema, {"type": "array", "items": schema}]}
    return schema


def _refusal(status: str, schema_of: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": schema_of[repr(ErrorBody)]}}
    return {"description": REFUSALS[status], "content": content}
