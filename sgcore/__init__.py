"""sgcore serves language models from a small core; everything with a name is a plugin.

The public names are imported when they are first used, so that `import sgcore` stays free of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgcore.engine.engine import Engine
    from sgcore.engine.messages import SamplingParams
    from sgcore.hookspecs import hookimpl

__version__ = "0.1.0"
__all__ = ["Engine", "SamplingParams", "__version__", "hookimpl"]

_HOMES = {
    "Engine": "sgcore.engine.engine",
    "SamplingParams": "sgcore.engine.messages",
    "hookimpl": "sgcore.hookspecs",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
