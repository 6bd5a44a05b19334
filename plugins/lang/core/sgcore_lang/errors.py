"""What goes wrong in a program."""

from __future__ import annotations

import linecache
from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """A line of the user's program."""

    file: str
    line: int

    def __str__(self) -> str:
        source = linecache.getline(self.file, self.line).strip()
        return f"{self.file}:{self.line}" + (f": {source}" if source else "")


class ProgramError(Exception):
    """A statement of a program failed; raised where its result is read. The cause is the error itself.

    `where` is the statement, None if there is no line to show.
    """

    def __init__(self, reason: BaseException | str, where: Where | None = None) -> None:
        self.where = where
        self.reason = reason
        text = str(reason) or type(reason).__name__
        super().__init__(f"{text}\n  from {where}" if where else text)


class BackendError(Exception):
    """A backend refused or failed; `status` is the HTTP status, if there was one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NotSupported(BackendError):
    """This backend can't do what the program asks; the message names it."""


class Cancelled(Exception):
    """The program was ended before this was computed."""
