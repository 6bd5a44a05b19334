"""Claims `.gguf` files."""

from __future__ import annotations

from pathlib import Path

from sgcore import hookimpl


@hookimpl
def sgcore_select_weights(path: Path) -> str | None:
    return "gguf" if path.suffix.lower() == ".gguf" else None
