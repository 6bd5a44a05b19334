"""Says which plugin is waited for, when one takes long to load."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NOTICE_S = 10.0
"""An import of torch on a cold disk takes less."""


@contextmanager
def patience(what: str, mend: str) -> Iterator[None]:
    """After NOTICE_S seconds in this block, print what is being loaded and what can be done."""
    notice = f"still loading {what} after {NOTICE_S:g} s; {mend}\n"
    timer = threading.Timer(NOTICE_S, lambda: sys.stderr.write(notice))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
