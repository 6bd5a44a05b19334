"""The JSON files beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sgcore.errors import LaunchError


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json`, with the chat template of `chat_template.jinja`, as far as they are there."""
    file, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    settings = read_json(file) if file.exists() else {}
    return settings | {"chat_template": template.read_text(encoding="utf-8")} if template.exists() else settings


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises `LaunchError` where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LaunchError(f"can't read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise LaunchError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise LaunchError(f"{file} holds no JSON object")
    return content
