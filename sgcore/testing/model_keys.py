"""Changes of a configuration, key by key, and what transformers makes of them."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgcore.testing.checkpoints import log_probabilities, random_model

REMOVED = object()
"""The value of a key that is left out."""
READ = re.compile(r"""config\.([a-z]\w+)\b(?!\()|getattr\((?:self\.)?config, ["'](\w+)["']""")
"""A key that code reads."""
PASSED = (
    "architectures",
    "model_type",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "quantization_config",
    "id2label",
)
"""Keys that say what a checkpoint is; the launcher reads them."""
UNKNOWN = (True, False, 4, 0.5)
"""Values of a key that the configuration lacks."""
DERIVED = ("head_dim", "num_key_value_heads")
"""Sizes that follow from others where they are left out."""
MOST_SIZE = 1024
"""A larger model would not be tiny."""
KINDS = ("full_attention", "sliding_attention")


def described(raw: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with a change."""
    return {key: value for key, value in {**raw, **change}.items() if value is not REMOVED}


def changes_of(model: Any, raw: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Each key changed alone: those that `raw` has, and those that transformers' code for `model` reads beside them."""
    for key, value in raw.items():
        if key not in PASSED and not key.startswith("_"):
            yield from ({key: other} for other in _others(value))
    yield from ({key: REMOVED} for key in DERIVED if key in raw)
    for key in sorted(_read_keys(model) - raw.keys() - set(PASSED)):
        yield from ({key: value} for value in UNKNOWN)
    if isinstance(raw.get("rope_parameters"), dict):
        yield from _rope_changes(model, raw["rope_parameters"])


class Reference:
    """transformers' logits for one prompt, with the configuration as it is and changed."""

    def __init__(self, kind: type[Any], raw: Mapping[str, Any], prompt: list[int]) -> None:
        """`kind`: transformers' class of the configuration."""
        self.kind, self.prompt = kind, prompt
        self.base = self._logits(self._model(raw))

    def changed_logits(self, changed: Mapping[str, Any], folder: Path) -> Tensor | None:
        """Log-probabilities (tokens, vocabulary) where they differ, with the checkpoint written to `folder`.

        None: transformers computes the same, or has no such model.
        """
        try:
            model = self._model(changed)
            logits = self._logits(model)
        except Exception:  # whatever its own code raises for a value that it can't have
            return None
        if logits.isnan().any() or (logits.shape == self.base.shape and torch.allclose(logits, self.base, atol=1e-5)):
            return None
        model.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(changed))
        return logits

    def _model(self, raw: Mapping[str, Any]) -> Any:
        with _quiet():
            config = self.kind.from_dict(copy.deepcopy(dict(raw)))
            if sum(getattr(config, key, 0) or 0 for key in ("hidden_size", "intermediate_size")) > 2 * MOST_SIZE:
                raise ValueError("not tiny any more")
            return random_model(config)

    def _logits(self, model: Any) -> Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return log_probabilities(model, self.prompt)
        finally:
            torch.set_num_threads(before)


def _others(value: Any) -> Iterator[Any]:
    """Values like `value`, and none."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value * 2, value // 2)
    elif isinstance(value, float):
        yield from (value * 2 + 0.25, value / 2)
    elif isinstance(value, str):
        yield from ("gelu", "relu", f"{value}_")
    elif value is None:
        yield from UNKNOWN
    elif isinstance(value, list):
        yield from _other_lists(value)
    if isinstance(value, bool | float | str | list):
        yield REMOVED


def _other_lists(values: list[Any]) -> Iterator[list[Any]]:
    if set(map(str, values)) & set(KINDS):
        for first, second in (KINDS, KINDS[::-1], (KINDS[0], KINDS[0]), (KINDS[1], KINDS[1])):
            yield [second if place % 2 else first for place in range(len(values))]
    else:
        yield values[::-1]


def _read_keys(model: Any) -> set[str]:
    """Keys that the model's module and transformers' masks read."""
    modules = sys.modules[type(model).__module__], sys.modules["transformers.masking_utils"]
    found = READ.findall("\n".join(inspect.getsource(module) for module in modules))
    return {key for pair in found for key in pair if key and not key.startswith("_")}


def _rope_changes(model: Any, rope: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each number of it changed, each kind of scaling, by the new and by the older key."""
    config = model.config
    if any(isinstance(value, dict) for value in rope.values()):
        return
    for key, value in rope.items():
        for other in () if isinstance(value, str) else _others(value):
            yield {"rope_parameters": described(rope, {key: other})}
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    original = config.max_position_embeddings // 16
    for kind, numbers in _scalings(size // 2, original):
        yield {"rope_parameters": {"rope_theta": 10000.0, "rope_type": kind, **numbers}}
        yield {"rope_parameters": REMOVED, "rope_scaling": {"type": kind, **numbers}, "rope_theta": 5000.0}
    yield {"rope_parameters": REMOVED, "rope_theta": 500.0}
    yield {"partial_rotary_factor": 0.5}
    yield {"rope_parameters": {**rope, "partial_rotary_factor": 0.5}}


def _scalings(half: int, original: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """All of transformers' rope functions, each with the numbers of all; `half`: frequencies of a head."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    numbers: dict[str, Any] = {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
    }
    numbers |= {"short_factor": [1.5] * half, "long_factor": [3.0] * half}
    for kind in ROPE_INIT_FUNCTIONS:
        yield kind, {**numbers, "original_max_position_embeddings": original}
        yield kind, {**numbers, "attention_factor": 1.5}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' warnings of keys that it doesn't know."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
