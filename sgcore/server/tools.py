"""What a chat request says about tools: checked, and turned into what template, parser and engine need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from sgcore.errors import RequestError
from sgcore.parsing.constraints import forced_calls, strict_calls
from sgcore.parsing.formats import Format
from sgcore.server.conversation import INPUT
from sgcore.server.protocol import ChatRequest, CustomTool, NamedTool, Tool, ToolFunction

NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
CHOICES = ("none", "auto", "required")


@dataclass(frozen=True)
class Tools:
    """The tools that may be called, as plain dictionaries of functions; none with `tool_choice` none."""

    allowed: tuple[dict[str, Any], ...] = ()
    is_forced: bool = False
    """The model must call one of them."""
    only_one: bool = False
    """It may make one call at most."""
    is_legacy: bool = False
    """The request has `functions`, and gets a `function_call`."""
    custom: frozenset[str] = frozenset()
    """Names of the custom tools: they take a text, which is the argument `input` of a function here."""
    is_binding: bool = False
    """A custom tool has a grammar, which its input must keep to."""

    def for_template(self) -> list[dict[str, Any]]:
        """The tools as chat templates know them."""
        hidden = ("strict",)
        return [
            {**tool, "function": {k: v for k, v in tool["function"].items() if k not in hidden}}
            for tool in self.allowed
        ]


NO_TOOLS = Tools()


@dataclass(frozen=True)
class _Declared:
    """A tool of the request, as a function; `where` is its path in the body."""

    where: str
    function: dict[str, Any]
    is_custom: bool = False
    has_grammar: bool = False

    @property
    def name(self) -> str:
        return str(self.function["name"])


@dataclass(frozen=True)
class _Choice:
    """Which tools may be called (None: all) and whether one must be; `param` is the field that says so."""

    param: str
    mode: str = "auto"
    names: tuple[str, ...] | None = None
    is_single: bool = False


def tools_of(body: ChatRequest, format: Format | None) -> Tools:
    """The request's tools. Raises `RequestError` 400 that names the field."""
    declared, choice = _checked(list(_declared(body))), _choice(body)
    if not declared and choice.mode == "required":
        field = "functions" if choice.param == "function_call" else "tools"
        raise RequestError(f"{choice.param} needs {field}", param=choice.param)
    if choice.mode == "none" or not declared:
        return NO_TOOLS
    chosen = _chosen(declared, choice)
    is_forced = choice.mode == "required"
    if not is_forced:
        _check_format(chosen, format)
    return Tools(
        tuple({"type": "function", "function": tool.function} for tool in chosen),
        is_forced,
        choice.is_single or body.parallel_tool_calls is False or bool(body.functions),
        bool(body.functions),
        frozenset(tool.name for tool in chosen if tool.is_custom),
        any(tool.has_grammar for tool in chosen),
    )


# -- what is declared ----------------------------------------------------------------------------------------------


def _declared(body: ChatRequest) -> Iterator[_Declared]:
    if body.functions and body.tools:
        raise RequestError("functions and tools exclude each other; functions is the older name", param="functions")
    for place, function in enumerate(body.functions or ()):
        yield _Declared(f"functions[{place}]", msgspec.to_builtins(function))
    for place, tool in enumerate(body.tools or ()):
        yield _tool(tool, f"tools[{place}]")


def _tool(tool: Tool, where: str) -> _Declared:
    if tool.type not in ("function", "custom"):
        message = f"{where}.type must be 'function' or 'custom', got {tool.type[:64]!r}"
        raise RequestError(message, param=f"{where}.type")
    described: ToolFunction | CustomTool | None = tool.custom if tool.type == "custom" else tool.function
    if described is None:
        raise RequestError(f"{where}.{tool.type} is missing", param=f"{where}.{tool.type}")
    if isinstance(described, CustomTool):
        return _custom(described, f"{where}.custom")
    return _Declared(f"{where}.function", msgspec.to_builtins(described))


def _custom(tool: CustomTool, where: str) -> _Declared:
    """A function with one argument, a text; a grammar is a pattern of it."""
    pattern = _pattern(tool, f"{where}.format")
    text = {"type": "string"} if pattern is None else {"type": "string", "pattern": pattern}
    parameters = {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}
    described = {} if tool.description is None else {"description": tool.description}
    function = {"name": tool.name, **described, "parameters": parameters, "strict": pattern is not None}
    return _Declared(where, function, True, pattern is not None)


def _pattern(tool: CustomTool, where: str) -> str | None:
    format = tool.format
    if format is None or format.type == "text":
        return None
    if format.type != "grammar" or format.grammar is None:
        message = f"{where} must be of type 'text', or of type 'grammar' and have grammar"
        raise RequestError(message, param=where)
    if format.grammar.syntax != "regex":
        message = f"{where}.grammar.syntax must be 'regex', got {format.grammar.syntax[:64]!r}"
        raise RequestError(message, param=f"{where}.grammar.syntax", code="unsupported_parameter")
    return f"^(?:{format.grammar.definition})$"


def _checked(declared: list[_Declared]) -> list[_Declared]:
    names: set[str] = set()
    for tool in declared:
        where = f"{tool.where}.name"
        if NAME.fullmatch(tool.name) is None:
            message = f"{where} must be 1 to 128 letters, digits and _.:/-, got {tool.name[:64]!r}"
            raise RequestError(message, param=where)
        if tool.name in names:
            raise RequestError(f"{where} is {tool.name!r}, as is an earlier one", param=where)
        _check_schema(tool.function.get("parameters"), f"{tool.where}.parameters")
        names.add(tool.name)
    return declared


def _check_schema(schema: dict[str, Any] | None, where: str) -> None:
    if not schema:
        return
    if schema.get("type", "object") != "object":
        raise RequestError(f"{where}.type must be 'object'", param=where)
    if not isinstance(schema.get("properties", {}), dict):
        raise RequestError(f"{where}.properties must be an object", param=where)


# -- what is chosen ------------------------------------------------------------------------------------------------


def _choice(body: ChatRequest) -> _Choice:
    legacy = body.function_call
    if legacy is not None and body.tools:
        raise RequestError("function_call is for functions; with tools it is tool_choice", param="function_call")
    if legacy is not None:
        if not isinstance(legacy, str):
            return _Choice("function_call", "required", (legacy.name,), True)
        return _Choice("function_call", _mode(legacy, CHOICES[:2], "function_call"))
    choice = body.tool_choice or "auto"
    if isinstance(choice, str):
        return _Choice("tool_choice", _mode(choice, CHOICES, "tool_choice"))
    if choice.type != "allowed_tools":
        return _Choice("tool_choice", "required", (_named(choice, "tool_choice"),), True)
    allowed, where = choice.allowed_tools, "tool_choice.allowed_tools"
    if allowed is None or not allowed.tools:
        raise RequestError(f"{where} must have mode and tools", param=where)
    names = tuple(_named(tool, f"{where}.tools[{place}]") for place, tool in enumerate(allowed.tools))
    return _Choice("tool_choice", _mode(allowed.mode, CHOICES[1:], f"{where}.mode"), names)


def _mode(mode: str, allowed: tuple[str, ...], where: str) -> str:
    if mode not in allowed:
        message = f"{where} must be one of {', '.join(allowed)}, or name a function; got {mode[:64]!r}"
        raise RequestError(message, param=where)
    return mode


def _named(choice: NamedTool, where: str) -> str:
    named = {"function": choice.function, "custom": choice.custom}.get(choice.type)
    if named is None:
        message = f"{where} must have type 'function' and function, or type 'custom' and custom"
        raise RequestError(message, param=where)
    return named.name


def _chosen(declared: list[_Declared], choice: _Choice) -> list[_Declared]:
    if choice.names is None:
        return declared
    known = {tool.name for tool in declared}
    unknown = next((name for name in choice.names if name not in known), None)
    if unknown is not None:
        raise RequestError(f"{choice.param} names {unknown[:64]!r}, which is not in tools", param=choice.param)
    return [tool for tool in declared if tool.name in choice.names]


def _check_format(chosen: list[_Declared], format: Format | None) -> None:
    """Calls that nobody forces are in the model's own format."""
    if format is None or not format.has_calls:
        raise RequestError(
            "how this model writes tool calls isn't known; start the server with --tool-call-parser, or send "
            "tool_choice: none or required",
            param="functions" if chosen[0].where.startswith("functions") else "tools",
            code="unsupported_parameter",
        )
    bound = next((tool for tool in chosen if tool.has_grammar), None)
    if bound is not None and format.call is None:
        message = f"{bound.where}.format: a grammar can't be kept in this model's format; send tool_choice: required"
        raise RequestError(message, param=f"{bound.where}.format", code="unsupported_parameter")


def constraint(tools: Tools, format: Format | None) -> dict[str, str]:
    """Fields of the sampling parameters that these tools ask for."""
    if tools.is_forced:
        return {"json_schema": forced_calls(tools.allowed, tools.only_one)}
    tag = strict_calls(format.call, tools.allowed) if format and format.call else None
    return {} if tag is None else {"structural_tag": tag}
