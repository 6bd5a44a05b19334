"""From what the user calls a model to a local folder or file."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from sgcore.errors import LaunchError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
UNREAD = ("*.bin", "*.pth", "*.pt", "*.h5", "*.msgpack", "*.onnx", "original/*")
"""Files of a hub repository that no weight source reads, and that often double the download."""


def locate(model_path: str, revision: str | None = None) -> Path:
    """The local folder or file; a hub id is fetched, with a progress bar, into the Hugging Face cache.

    Raises LaunchError for a path that doesn't exist and for a hub id that can't be had, with the reason.
    """
    path = Path(model_path).expanduser()
    if path.exists():
        return path.resolve()
    if not may_exist(model_path):
        raise LaunchError(
            f"no such model folder or file: {model_path}", "give a folder, a file, or a hub id OWNER/NAME"
        )
    return _fetch(model_path, revision)


def may_exist(model_path: str) -> bool:
    """Whether it is here, or could be a hub id."""
    return Path(model_path).expanduser().exists() or HUB_ID.fullmatch(model_path) is not None


def _fetch(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, ignore_patterns=list(UNREAD)))
    except Exception as error:
        raise _explain(hub_id, revision, error) from error


def _explain(hub_id: str, revision: str | None, error: Exception) -> LaunchError:
    """The hub's error in our words: first the most particular ones, since gated is a kind of not found there."""
    from huggingface_hub import errors

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LaunchError(f"no disk space left while fetching {hub_id}", "free some, or set HF_HOME to a larger disk")
    if isinstance(error, errors.GatedRepoError):
        return LaunchError(
            f"{hub_id} is gated", f"ask for access at https://huggingface.co/{hub_id} and log in with `hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return LaunchError(f"{hub_id} has no revision {revision!r}", "check --revision")
    if isinstance(error, errors.RepositoryNotFoundError):
        return LaunchError(
            f"{hub_id} is neither a local path nor a model on the hub",
            "check the spelling; a private model needs `hf auth login`",
        )
    hint = "check the network, or give the path of a local folder"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return LaunchError(f"{hub_id} is neither a local path nor in the cache, and the hub can't be reached", hint)
    return LaunchError(f"can't fetch {hub_id}: {type(error).__name__}: {error}", hint)
