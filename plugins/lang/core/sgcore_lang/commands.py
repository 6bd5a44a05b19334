"""What a program may ask of its server beside text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgcore_lang import loop
from sgcore_lang.default import backend_or_default


def flush_cache(backend: Any = None) -> None:
    """Forget all cached prefixes. Raises BackendError while requests run."""
    loop.wait(backend_or_default(backend).flush_cache())


def get_server_info(backend: Any = None) -> Mapping[str, Any]:
    """What the server tells of itself."""
    return loop.wait(backend_or_default(backend).server_info())
