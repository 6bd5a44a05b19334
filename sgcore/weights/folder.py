"""What every source of a Hugging Face folder reads: the configuration and the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sgcore.api import WeightSource
from sgcore.errors import LaunchError
from sgcore.weights.settings import read_json, read_tokenizer_config

PLAIN_TOKENIZER = "TokenizersBackend"
"""`tokenizer_class` of a tokenizer that is all in `tokenizer.json`."""


class FolderSource(WeightSource):
    """A folder with `config.json`; the tensors are a subclass's."""

    def __init__(self, path: Path) -> None:
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise LaunchError(f"{path} is not a folder", "give a Hugging Face folder, or a file that a plugin reads")
        _check_files(self.folder)
        self.config = read_json(self.folder / "config.json")

    def hf_config(self) -> dict[str, Any]:
        return dict(self.config)

    def tokenizer_config(self) -> dict[str, Any]:
        return read_tokenizer_config(self.folder)

    def generation_config(self) -> dict[str, Any]:
        file = self.folder / "generation_config.json"
        return read_json(file) if file.exists() else {}

    def tokenizer(self) -> Any:
        try:
            return read_tokenizer(self.folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LaunchError(
                f"no tokenizer can be loaded from {self.folder}: {_first_line(error)}",
                "name its folder with --tokenizer-path, or serve token ids with --skip-tokenizer-init",
            ) from error


def _check_files(folder: Path) -> None:
    """Raises `LaunchError` for a pipe or a device, which a library would read without end."""
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise LaunchError(f"{file} is no regular file", "remove it, or download the checkpoint again")


def read_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer in a folder. Raises `LaunchError`, and what transformers raises."""
    _check_files(folder)
    settings = read_tokenizer_config(folder)
    if settings.get("tokenizer_class") == PLAIN_TOKENIZER and "auto_map" not in settings:
        # As AutoTokenizer would, which imports torch and the model's code to find that out.
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
