"""A Hugging Face folder with `*.safetensors`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sgcore.errors import LaunchError
from sgcore.model_config import shown
from sgcore.weights.folder import FolderSource
from sgcore.weights.settings import read_json

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
MAPPED_BYTES = 64 << 20
"""A file is mapped anew after so much, which costs a look at its header."""


class SafetensorsSource(FolderSource):
    """Tensors are mapped from the files; a file's header is checked when the source is opened.

    A file is mapped anew after some tensors, so that those that were copied elsewhere take no memory any more.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)

    def __init__(self, path: Path) -> None:
        path = Path(path)
        super().__init__(path.parent if path.is_file() else path)
        files = [path] if path.is_file() else weight_files(self.folder)
        self.names = {file: _names(file) for file in files}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for file, names in self.names.items():
            opened, mapped = _open(file, "pt"), 0
            for name in names:
                if mapped > MAPPED_BYTES:
                    opened, mapped = _open(file, "pt"), 0
                tensor = opened.get_tensor(name)
                mapped += tensor.nbytes
                yield name, tensor

    def files(self) -> Sequence[Path]:
        return tuple(self.names)

    def tensor_count(self) -> int:
        return sum(len(names) for names in self.names.values())


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the checkpoint, by the index where there is one. Raises `LaunchError` if one is missing."""
    if (folder / INDEX).exists():
        files = _shards(folder)
        cause, hint = f"which {INDEX} names", "download the checkpoint again"
    else:
        single = folder / "model.safetensors"
        files = [single] if single.exists() else sorted(folder.glob("*.safetensors"))
        cause, hint = "to which there is a link without its file", "is the download complete?"
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise LaunchError(f"{folder} lacks {', '.join(missing)}, {cause}", hint)
    if not files:
        raise LaunchError(f"{folder} has no *.safetensors file", "--load-format dummy serves random weights")
    return files


def _shards(folder: Path) -> list[Path]:
    """The files of the index. Raises `LaunchError` for a name that leads out of the folder."""
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict):
        raise LaunchError(f"{folder / INDEX} has no 'weight_map'")
    for name in shards.values():
        if not isinstance(name, str) or not name or "\0" in name:
            raise LaunchError(f"{folder / INDEX} names {shown(name)}, which is no file name")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise LaunchError(
                f"{folder / INDEX} names {shown(name)}, which is not in its folder", "is the checkpoint to be trusted?"
            )
    return [folder / name for name in sorted(set(shards.values()))]


def _names(file: Path) -> list[str]:
    with _open(file, "np") as opened:
        return list(opened.keys())


def _open(file: Path, framework: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework=framework)
    except (SafetensorError, OSError) as error:
        raise LaunchError(f"{file} is not a whole safetensors file: {error}", "download it again") from error
