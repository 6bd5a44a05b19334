"""Chat templates, rendered by processes that can be killed (`sgcore.tokenizer.render_process`)."""

from __future__ import annotations

import atexit
import json
import queue
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROCESSES = 2
"""As many conversations are rendered at once."""
TIMEOUT_S = 5.0
"""For one conversation. Usual templates take less than a millisecond, and 10,000 messages some 0.1 s."""
MAX_CHARS = 16 << 20
PROGRAM = Path(__file__).with_name("render_process.py")


class TemplateError(Exception):
    """A template that can't be rendered: what it said itself, or which bound it has reached."""


class RenderProcessEnded(TemplateError):
    """Nothing is known against the template: the process that rendered it has ended."""


class RenderProcess:
    """One process, started when it is made."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            arguments = [str(theirs.fileno()), str(TIMEOUT_S + 1), str(MAX_CHARS)]
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM), *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def ask(self, line: bytes) -> bytes:
        """The answer to a line. Raises OSError if there is none in time, or the process has ended."""
        deadline = time.monotonic() + TIMEOUT_S
        self.socket.settimeout(TIMEOUT_S)
        self.socket.sendall(line)
        blocks: list[bytes] = []
        while not blocks or not blocks[-1].endswith(b"\n"):
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            blocks.append(self.socket.recv(1 << 20))
            if not blocks[-1]:
                raise ConnectionError("it has ended")
        return b"".join(blocks)

    def close(self) -> None:
        """End it, whatever it does."""
        self.socket.close()
        self.process.kill()
        self.process.wait()


class Renderer:
    """Renders in one of some processes, which are started when they are needed."""

    def __init__(self) -> None:
        self._idle: queue.LifoQueue[RenderProcess | None] = queue.LifoQueue()
        for _ in range(PROCESSES):
            self._idle.put(None)

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """The template's text. Raises TemplateError if it refuses, or takes too long, or writes too much."""
        line = _line(template, variables)
        process, kept = self._idle.get(), None
        try:
            if process is not None and process.process.poll() is not None:
                _close(process)
                process = None
            process = process or RenderProcess()
            text, error = json.loads(process.ask(line))
            kept = process
        except TimeoutError as late:
            raise TemplateError(f"it was not done after {TIMEOUT_S:g} s") from late
        except OSError as gone:
            raise RenderProcessEnded("the process that renders it has ended") from gone
        finally:
            # Whatever happened, one whose answer was not read is not asked again: it would give it to somebody else.
            if kept is None:
                _close(process)
            self._idle.put(kept)
        if error is not None:
            raise TemplateError(error)
        return str(text)

    def close(self) -> None:
        """End the processes that have nothing to do; the next conversation starts one."""
        for _ in range(PROCESSES):
            try:
                _close(self._idle.get_nowait())
            except queue.Empty:
                return
            self._idle.put(None)


def _close(process: RenderProcess | None) -> None:
    if process is not None:
        process.close()


def _line(template: str, variables: dict[str, Any]) -> bytes:
    try:
        return json.dumps([template, variables], default=_placeholder).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateError(f"what it is given is no JSON: {error}") from error


def _placeholder(value: object) -> str:
    """What stands for a value that is no JSON: templates look at whether it is there."""
    return f"<{type(value).__name__}>"


RENDERER = Renderer()
"""This process's."""
atexit.register(RENDERER.close)
