"""What a chat request says about tools: checked, and turned into what template, parser and engine need."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from sgcore.errors import RequestError
from sgcore.parsing.constraints import forced_calls, strict_calls
from sgcore.parsing.formats import Format
from sgcore.server.protocol import ChatRequest, NamedTool, Tool

NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
CHOICES = ("none", "auto", "required")


@dataclass(frozen=True)
class Tools:
    """The tools that may be called, as plain dictionaries; none with `tool_choice` none."""

    allowed: tuple[dict[str, Any], ...] = ()
    is_forced: bool = False
    """The model must call one of them."""
    only_one: bool = False
    """It may make one call at most."""

    def for_template(self) -> list[dict[str, Any]]:
        """The tools as chat templates know them."""
        hidden = ("strict",)
        return [
            {**tool, "function": {k: v for k, v in tool["function"].items() if k not in hidden}}
            for tool in self.allowed
        ]


NO_TOOLS = Tools()


def tools_of(body: ChatRequest, format: Format | None) -> Tools:
    """The request's tools. Raises `RequestError` 400 that names the field."""
    choice = body.tool_choice or "auto"
    if isinstance(choice, str) and choice not in CHOICES:
        message = f"tool_choice must be one of {', '.join(CHOICES)}, or name a function; got {choice[:64]!r}"
        raise RequestError(message, param="tool_choice")
    names = _checked_names(body.tools or [])
    is_forced = choice not in ("none", "auto")
    if not names and is_forced:
        raise RequestError("tool_choice needs tools", param="tool_choice")
    if choice == "none" or not names:
        return NO_TOOLS
    if format is None or not format.has_calls:
        raise RequestError(
            "how this model writes tool calls isn't known; start the server with --tool-call-parser, or send "
            "tool_choice: none",
            param="tools",
            code="unsupported_parameter",
        )
    wanted = _named(choice, names) if isinstance(choice, NamedTool) else None
    allowed = tuple(msgspec.to_builtins(tool) for tool in body.tools or () if wanted in (None, tool.function.name))
    return Tools(allowed, is_forced, wanted is not None or body.parallel_tool_calls is False)


def _checked_names(tools: list[Tool]) -> set[str]:
    names: set[str] = set()
    for position, tool in enumerate(tools):
        where = f"tools[{position}]"
        name = tool.function.name
        if tool.type != "function":
            raise RequestError(f"{where}.type must be 'function', got {tool.type[:64]!r}", param=f"{where}.type")
        if NAME.fullmatch(name) is None:
            message = f"{where}.function.name must be 1 to 128 letters, digits and _.:/-, got {name[:64]!r}"
            raise RequestError(message, param=f"{where}.function.name")
        if name in names:
            message = f"{where}.function.name is {name!r}, as is an earlier one"
            raise RequestError(message, param=f"{where}.function.name")
        _check_schema(tool.function.parameters, f"{where}.function.parameters")
        names.add(name)
    return names


def _check_schema(schema: dict[str, Any] | None, where: str) -> None:
    if not schema:
        return
    if schema.get("type", "object") != "object":
        raise RequestError(f"{where}.type must be 'object'", param=where)
    if not isinstance(schema.get("properties", {}), dict):
        raise RequestError(f"{where}.properties must be an object", param=where)


def _named(choice: NamedTool, names: set[str]) -> str:
    if choice.type != "function":
        raise RequestError("tool_choice.type must be 'function'", param="tool_choice")
    if choice.function.name not in names:
        message = f"tool_choice names {choice.function.name[:64]!r}, which is not in tools"
        raise RequestError(message, param="tool_choice")
    return choice.function.name


def constraint(tools: Tools, format: Format | None) -> dict[str, str]:
    """Fields of the sampling parameters that these tools ask for."""
    if not tools.allowed or format is None:
        return {}
    if tools.is_forced:
        return {"json_schema": forced_calls(tools.allowed, tools.only_one)}
    tag = strict_calls(format.call, tools.allowed) if format.call else None
    return {} if tag is None else {"structural_tag": tag}
