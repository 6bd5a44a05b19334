"""The core's own answers, through the doors that every plugin uses."""

from __future__ import annotations

from pathlib import Path

from sgcore.hookspecs import hookimpl


@hookimpl(trylast=True)
def sgcore_select_weights(path: Path) -> str | None:
    """A Hugging Face folder: `config.json` beside `*.safetensors`."""
    is_folder = path.is_dir() and (path / "config.json").is_file()
    return "safetensors" if is_folder and next(path.glob("*.safetensors"), None) is not None else None
