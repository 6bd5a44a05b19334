"""The JSON files beside the weights."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from sgcore.errors import LaunchError

MOST_BYTES = 64 << 20
"""Of a JSON file or a template; the largest published ones, of tokenizers, have a fifth of it."""


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` as far as it is there; files with chat templates replace its `chat_template`.

    Several templates are a list of objects with `name` and `template`, as that file has them itself.
    """
    file, default = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings = read_json(file) if file.exists() else {}
    templates = {"default": default} if default.exists() else {}
    templates |= {path.stem: path for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    if not templates:
        return settings
    parts = [{"name": name, "template": read_text(path)} for name, path in templates.items()]
    return settings | {"chat_template": parts[0]["template"] if list(templates) == ["default"] else parts}


def read_text(file: Path) -> str:
    """A file's text. Raises `LaunchError` where it can't be read, is no regular file, or is too large."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise LaunchError(f"can't read {file}: it is no regular file")
        if status.st_size > MOST_BYTES:
            raise LaunchError(f"{file} has {status.st_size:,} bytes; at most {MOST_BYTES:,} are read")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise LaunchError(f"can't read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise LaunchError(f"can't read {file}: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises `LaunchError` where there is none."""
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise LaunchError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise LaunchError(f"{file} holds no JSON object")
    return content
