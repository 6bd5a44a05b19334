"""The folder of a core's sockets: only its user can open it, and it doesn't outlive its process for long."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "sgcore-ipc-"
YOUNG_S = 60.0
"""A folder that is younger may belong to a process that has not locked it yet."""


class SocketFolder:
    """A new folder in the system's temporary one, locked as long as this process lives.

    The folders that killed processes of this user have left are removed first.
    """

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        remove_stale(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove it with what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._handle)


def remove_stale(parent: Path) -> None:
    """Remove the folders in `parent` that nobody has locked and that are this user's."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, just removed, or locked
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                _remove_if_stale(folder, handle)
            finally:
                os.close(handle)


def _remove_if_stale(folder: Path, handle: int) -> None:
    about = os.fstat(handle)
    if about.st_uid == os.getuid() and time.time() - about.st_mtime > YOUNG_S:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
