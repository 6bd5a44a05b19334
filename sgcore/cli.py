"""The command `sgcore`: parse, call, and say what went wrong in one line.

Each command's module is imported only when it is asked for; nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from sgcore import __version__
from sgcore.errors import LaunchError

if TYPE_CHECKING:
    from cyclopts import App

COMMANDS = {
    "serve": ("sgcore.cli_serve", "Serve a model over HTTP."),
    "chat": ("sgcore.chat", "Chat with a running server in the terminal."),
    "bench": ("sgcore.benchmark", "Measure a running server."),
    "plugins": ("sgcore.cli_plugins", "List the installed plugins, or check that each loads."),
    "doctor": ("sgcore.cli_doctor", "Show what is installed, what is disabled and why, and what a model would run on."),
}
"""Command -> the module that has it, and its help line."""
USAGES = {"serve": "MODEL [OPTIONS]", "chat": "[OPTIONS]", "doctor": "[MODEL]"}
"""Command -> what follows its name, for those without commands of their own."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
FORWARDED = "bench"
"""The command that parses its own arguments, with `main(argv) -> int`; the others have `command(words)`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for a failure, 2 for a wrong command line, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    exit_code = _run_politely(words)
    if argv is None and exit_code == INTERRUPTED:
        _leave(exit_code)
    return exit_code


def _run_politely(words: list[str]) -> int:
    """Run one command; an error is a line and a hint."""
    is_debugging = "--debug" in words
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)  # a plugin's native code that crashes leaves the line that called it
    words = [word for word in words if word != "--debug"]
    try:
        return _run(words)
    except LaunchError as error:
        return _refuse(str(error), error.hint, error.exit_code, is_debugging)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from sgcore.plugins.packages import unexpected

        said = unexpected(error)
        return _refuse(str(said), "" if is_debugging else said.hint, 1, is_debugging)


def _leave(exit_code: int) -> NoReturn:
    """End this process now: other threads may be in the middle of an import, and Ctrl-C may be pressed again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(exit_code)


def _run(words: list[str]) -> int:
    if words[:1] == [FORWARDED]:
        forward: Callable[[list[str]], int | None] = import_module(COMMANDS[FORWARDED][0]).main
        return forward(words[1:]) or 0
    from cyclopts import CycloptsError

    app = _app(words)
    try:
        command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        known = f"{words[0]} " if words[0] in COMMANDS else ""
        raise LaunchError(str(error).strip(), f"see `sgcore {known}--help`", exit_code=2) from error
    return command(*bound.args, **bound.kwargs) or 0


def _app(words: Sequence[str]) -> App:
    """The command line, with the module of the command that is asked for; the others show their help line alone."""
    from cyclopts import App

    app = App(
        name="sgcore",
        help="Serve language models from a small core in which everything with a name is a plugin.",
        help_epilogue="`--debug` shows the traceback of an error.",
        version=__version__,
    )
    for name, (module, line) in COMMANDS.items():
        if [name] == words[:1]:
            usage = {"usage": f"Usage: sgcore {name} {USAGES[name]}"} if name in USAGES else {}
            app.command(import_module(module).command(words), name=name, **usage)
        else:
            app.command(_unasked, name=name, help=line)
    return app


def _unasked() -> None:
    """Stands for a command whose module isn't needed."""


def _refuse(message: str, hint: str, exit_code: int, is_debugging: bool) -> int:
    if is_debugging:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
