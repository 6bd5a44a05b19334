"""What every source of a Hugging Face folder reads: the configuration and the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sgcore.api import WeightSource
from sgcore.errors import LaunchError


class FolderSource(WeightSource):
    """A folder with `config.json`; the tensors are a subclass's."""

    def __init__(self, path: Path) -> None:
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise LaunchError(f"{path} is not a folder", "give a Hugging Face folder, or a file that a plugin reads")
        self.config = read_json(self.folder / "config.json")

    def hf_config(self) -> dict[str, Any]:
        return dict(self.config)

    def generation_config(self) -> dict[str, Any]:
        file = self.folder / "generation_config.json"
        return read_json(file) if file.exists() else {}

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LaunchError(
                f"no tokenizer can be loaded from {self.folder}: {_first_line(error)}",
                "name its folder with --tokenizer-path, or serve token ids with --skip-tokenizer-init",
            ) from error


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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
