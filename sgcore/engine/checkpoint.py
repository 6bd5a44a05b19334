"""What a frontend reads of a checkpoint: the generation configuration and the tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sgcore.errors import LaunchError
from sgcore.plugins.plan import Driver
from sgcore.weights.folder import read_tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """The text side of a checkpoint."""

    generation_config: dict[str, Any]
    tokenizer: Any
    """transformers' tokenizer; None: token ids are served."""


def read_checkpoint(source: Driver, path: Path, options: Mapping[str, Any]) -> Checkpoint:
    """Read what is served by; `options` by flat name. Raises LaunchError where there is no tokenizer."""
    opened = source.load()(path)
    tokenizer = None if options["skip_tokenizer_init"] else load_tokenizer(options.get("tokenizer_path"), opened)
    return Checkpoint(opened.generation_config(), tokenizer)


def with_end_tokens(generation_config: Mapping[str, Any], hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """The generation configuration; where it names no end tokens, with those of the model's configuration.

    Checkpoints without `generation_config.json` say them there, models of several modalities under `text_config`.
    """
    places = (generation_config, hf_config, hf_config.get("text_config") or {})
    found = (place["eos_token_id"] for place in places if place.get("eos_token_id") not in (None, []))
    return {**generation_config, "eos_token_id": next(found, None)}


def load_tokenizer(path: str | None, source: Any) -> Any:
    """The tokenizer of `--tokenizer-path`, or the checkpoint's own."""
    if path is None:
        return source.tokenizer()
    try:
        return read_tokenizer(Path(path))
    except (OSError, ValueError) as error:
        raise LaunchError(f"--tokenizer-path {path}: {error}", "give the folder of a tokenizer") from error


class CheckpointAhead:
    """A checkpoint that is read in a thread while the plan is still being made."""

    NAMES = ("skip_tokenizer_init", "tokenizer_path")
    """The options that decide what is read."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = self._deciding(options)
        self._place: SimpleQueue[tuple[Driver, Path]] = SimpleQueue()
        self._read: Future[Checkpoint] = Future()
        threading.Thread(target=self._run, name="sgcore-checkpoint", daemon=True).start()

    def found(self, source: Driver, path: Path) -> None:
        """Say where it is; until then, the thread imports what it needs."""
        self._place.put((source, path))

    def get(self, options: Mapping[str, Any]) -> Checkpoint | None:
        """Wait for it; None: the plan's options ask for another. Raises what reading raised."""
        return self._read.result() if self._deciding(options) == self._options else None

    def _deciding(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {name: options.get(name) for name in self.NAMES}

    def _run(self) -> None:
        try:
            if not self._options["skip_tokenizer_init"]:
                import_module("transformers")
            self._read.set_result(read_checkpoint(*self._place.get(), self._options))
        except BaseException as error:
            self._read.set_exception(error)
