"""Renders chat templates in a process of its own: `python render_process.py FD SECONDS CHARS`.

A template is a program of somebody else's. It may loop, or write without end, and only a process can be killed. This
one imports jinja2 and nothing of sgcore, so that it takes 11 MB of its own and starts in less than 0.1 s. On the socket
`FD` a line of JSON `[template, variables]` is answered by a line `[text, null]` or `[null, error]`.
"""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_MEMORY_BYTES = 1 << 30


class GenerationBlock(Extension):
    """`{% generation %}` marks what the assistant says, for training; here its text is text."""

    tags = {"generation"}  # jinja2's own declaration

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Any) -> Any:
        return caller()


class PlainNamespace(Namespace):
    """A namespace that keeps nothing by a name of Python's own."""

    def __init__(*args: Any, **named: Any) -> None:
        self, *rest = args
        values = dict(*rest, **named)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not keep {name!r} in a namespace")


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(format: str) -> str:
    return datetime.now().strftime(format)


class PlainDict:
    """`dict` without what Python's own type leads to."""

    def __call__(self, *args: Any, **named: Any) -> dict[Any, Any]:
        return dict(*args, **named)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def environment() -> ImmutableSandboxedEnvironment:
    """What chat templates are written for: transformers' environment, whose names they use."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals.update(raise_exception=_refuse, strftime_now=_now, namespace=PlainNamespace, dict=PlainDict())
    return made


@lru_cache(8)
def _compiled(template: str) -> jinja2.Template:
    return environment().from_string(template)


def render(template: str, variables: dict[str, Any], most_chars: int) -> str:
    """The text. Raises ValueError as soon as it is longer than `most_chars`, and whatever the template raises."""
    parts, size = [], 0
    for part in _compiled(template).generate(**variables):
        size += len(part)
        if size > most_chars:
            raise ValueError(f"it writes more than {most_chars} characters")
        parts.append(part)
    return "".join(parts)


def answer(line: bytes, most_chars: int) -> list[str | None]:
    """Text or error."""
    try:
        template, variables = json.loads(line)
        return [render(template, variables, most_chars), None]
    except MemoryError:
        return [None, "it takes too much memory"]
    except RecursionError:
        return [None, "it is nested too deeply"]
    except Exception as error:
        return [None, str(error)[:2000] or type(error).__name__]


def main(fd: int, seconds: float, most_chars: int) -> None:
    """Answer until the other end is closed. A template that takes too long ends this process, whoever else lives."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MAX_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with socket.socket(fileno=fd) as connection, connection.makefile("rwb") as lines:
        for line in lines:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            told = answer(line, most_chars)
            signal.setitimer(signal.ITIMER_REAL, 0)
            lines.write(json.dumps(told).encode() + b"\n")
            lines.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
