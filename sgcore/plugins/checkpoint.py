"""Which weight source reads a path, and what the model's configuration is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sgcore.api import WeightSource
from sgcore.config import ModelOptions
from sgcore.errors import LaunchError
from sgcore.model_config import shown
from sgcore.plugins import drivers, packages
from sgcore.plugins.installed import Installed
from sgcore.plugins.manager import Hooks
from sgcore.plugins.plan import Driver
from sgcore.weights.settings import read_text, read_tokenizer_config


def select_source(path: Path, load_format: str, hooks: Hooks, installed: Installed) -> tuple[str, str]:
    """The weight source's name and who chose it. Raises LaunchError if no plugin reads the path."""
    if load_format != "auto":
        return load_format, "--load-format"
    answer = hooks.first("sgcore_select_weights", path=path)
    if answer is not None:
        return answer.value, f"plugin {answer.distribution}"
    known = ", ".join(installed.names("sgcore.weights")) or "none"
    readers = packages.with_name("sgcore.weights", path.suffix.removeprefix("."))
    hint = "is it the model's folder or file? name a format with --load-format, or install the plugin that reads it"
    if readers:
        hint = packages.install(readers)
    if (path / "config.json").is_file():
        hint = "config.json is there, the weights are not: is the download complete?"
    raise LaunchError(f"no installed plugin reads {path}; formats installed: {known}", hint)


def open_source(driver: Driver, path: Path) -> WeightSource:
    """The source, opened. Raises LaunchError if it can't read the path."""
    source: WeightSource = drivers.load(driver)(path)
    return source


def merged_config(source: WeightSource, overrides: str) -> dict[str, Any]:
    """The configuration with `--json-model-override-args` merged in, nested objects by key."""
    try:
        extra = json.loads(overrides)
    except ValueError as error:
        raise LaunchError(f"--json-model-override-args is no JSON: {error}", exit_code=2) from error
    if not isinstance(extra, dict):
        raise LaunchError("--json-model-override-args is no JSON object", exit_code=2)
    return _merge(source.hf_config(), extra)


def tokenizer_settings(source: WeightSource, choices: ModelOptions) -> dict[str, Any]:
    """What is said of the tokenizer that will be used: `chat_template` as text, `response_template` if it is usable."""
    if choices.skip_tokenizer_init:
        return {}
    path = choices.tokenizer_path
    settings = source.tokenizer_config() if path is None else read_tokenizer_config(Path(path))
    if choices.chat_template is not None:
        return {"chat_template": read_template(choices.chat_template)}
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = "\n".join(str(part.get("template")) for part in template if isinstance(part, dict))
    if not isinstance(template, str | None):
        raise LaunchError(
            f"the tokenizer's chat_template is {shown(template)}, not a text", "give one by --chat-template"
        )
    return {"chat_template": template, "response_template": settings.get("response_template")}


def read_template(path: str) -> str:
    """The chat template in a file; raises LaunchError if it can't be read."""
    try:
        return read_text(Path(path))
    except LaunchError as error:
        raise LaunchError(f"the chat template can't be read: {error}", "see --chat-template") from error


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        nested = merged.get(key)
        merged[key] = _merge(nested, value) if isinstance(nested, dict) and isinstance(value, dict) else value
    return merged
