"""Sampling parameters: what `run` sets for a whole program, and a `gen` for itself, in the server's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SERVER_NAMES = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens"}
OPTIONS = ("return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs")
"""What a generation is told beside its sampling."""
RUN_DEFAULTS: Mapping[str, Any] = {
    "max_new_tokens": 128,
    "min_new_tokens": None,
    "n": 1,
    "stop": None,
    "stop_token_ids": None,
    "stop_regex": None,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "ignore_eos": False,
    **dict.fromkeys(OPTIONS),
}
"""Arguments of `run`, and what they are if they are left out."""


def stops(stop: str | Sequence[str] | None, *more: str) -> list[str]:
    """A new list of stop strings; the given one is never changed."""
    given = [stop] if isinstance(stop, str) else list(stop or ())
    return [*given, *more]


def run_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run sends with each generation: its defaults with what was given, copied."""
    values = {**RUN_DEFAULTS, **given}
    return {name: _copied(value) for name, value in values.items() if value is not None}


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
