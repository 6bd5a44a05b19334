"""Which line of the user's program is being run."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from sgcore_lang.errors import Where

OURS = (str(Path(__file__).parent), contextlib.__file__)
"""Frames of these files are not the program's."""


def where() -> Where | None:
    """The nearest frame outside of the language."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back  # type: ignore[assignment]
    return None if frame is None else Where(frame.f_code.co_filename, frame.f_lineno)
