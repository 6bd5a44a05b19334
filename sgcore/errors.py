"""The ways in which sgcore says no."""

from __future__ import annotations

import re
from collections.abc import Mapping


class LaunchError(Exception):
    """Something that the user can mend before the server starts; the CLI prints it as one line.

    `hint` says what to do. `exit_code` is 2 for a wrong command line and 1 for anything else.
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code


class RequestError(Exception):
    """A request that is refused; `status` is the HTTP status that says so.

    `param` names the field at fault, `code` is a short machine-readable reason or None.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def renamed(error: RequestError, names: Mapping[str, str]) -> RequestError:
    """The same refusal in a caller's words: `names` maps our name of a field to theirs.

    In the message only names with an underscore are replaced; others are words of the language.
    """
    message = str(error)
    for ours, theirs in names.items():
        if "_" in ours:
            message = re.sub(rf"(?<![\w.]){ours}(?!\.?\w)", theirs, message)
    return RequestError(message, error.status, names.get(error.param or "", error.param), error.code)


class ConstraintError(Exception):
    """A constraint that can't be compiled, or an output that can't go on under it; the text is for the client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class DeviceLost(Exception):
    """A fault after which a device computes nothing more in this process."""
