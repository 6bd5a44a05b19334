"""A request's messages as chat templates know them."""

from __future__ import annotations

from typing import Any

import msgspec

from sgcore.errors import RequestError
from sgcore.server.protocol import CalledFunction, ContentPart, MadeCall, Message

ROLES = {"developer": "system", "function": "tool"}
"""Roles that templates know by another name."""
INPUT = "input"
"""The argument that a custom tool's text is, for a template and a model that know functions only."""


def template_message(message: Message, position: int) -> dict[str, Any]:
    """A message as chat templates know it: content is one string, arguments of calls are objects.

    Raises `RequestError` 400 that names the message and the field.
    """
    where = f"messages[{position}]"
    plain: dict[str, Any] = msgspec.to_builtins(message)
    for name in ("refusal", "function_call", "reasoning"):
        plain.pop(name, None)
    if message.reasoning and not message.reasoning_content:
        plain["reasoning_content"] = message.reasoning
    plain["role"] = ROLES.get(message.role, message.role)
    plain["content"] = _content(message, f"{where}.content")
    calls = [_call(call, f"{where}.tool_calls[{place}]") for place, call in enumerate(message.tool_calls or ())]
    if message.function_call is not None:
        calls.append(_function(message.function_call, f"{where}.function_call"))
    if calls:
        plain["tool_calls"] = calls
    return plain


def _content(message: Message, where: str) -> str:
    content = message.content
    if isinstance(content, list):
        content = "\n".join(_text_of(part, where) for part in content)
    return content or message.refusal or ""


def _text_of(part: str | ContentPart, where: str) -> str:
    if isinstance(part, str):
        return part
    if part.type not in ("text", "input_text", "output_text", "refusal"):
        message = f"content part {part.type[:64]!r} is not supported by this model; only text is"
        raise RequestError(message, param=where, code="unsupported_content")
    text = part.refusal if part.type == "refusal" else part.text
    if text is None:
        name = "refusal" if part.type == "refusal" else "text"
        raise RequestError(f"a content part of type {part.type} has no {name}", param=where)
    return text


def _call(call: MadeCall, where: str) -> dict[str, Any]:
    """A call of an earlier turn; of a custom tool as a function's with one argument."""
    name = {} if call.id is None else {"id": call.id}
    if call.type == "custom" and call.custom is not None:
        function = {"name": call.custom.name, "arguments": {INPUT: call.custom.input}}
        return {"function": function, **name, "type": "function"}
    if call.type != "function" or call.function is None:
        message = f"{where} must have type 'function' and function, or type 'custom' and custom"
        raise RequestError(message, param=where)
    return {**_function(call.function, f"{where}.function"), **name}


def _function(function: CalledFunction, where: str) -> dict[str, Any]:
    arguments = _arguments(function.arguments, f"{where}.arguments")
    return {"function": {"name": function.name, "arguments": arguments}, "type": "function"}


def _arguments(value: Any, where: str) -> dict[str, Any]:
    """The object that JSON text stands for. Nothing, which some models and clients write for none, is an empty one."""
    parsed = value
    if isinstance(value, str):
        try:
            parsed = msgspec.json.decode(value) if value.strip() else None
        except (msgspec.DecodeError, RecursionError) as error:
            raise RequestError(f"{where} is no JSON: {error}", param=where) from error
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise RequestError(f"{where} must be a JSON object, or its text; got {str(value)[:64]!r}", param=where)
    return parsed
