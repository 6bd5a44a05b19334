"""The number format and the context length, decided from the user's word, the configuration and the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sgcore.errors import LaunchError

DTYPES = {"float32": "float32", "float": "float32", "bfloat16": "bfloat16", "float16": "float16", "half": "float16"}
"""What the user may say -> torch's name."""
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


def dtype(said: str, hf_config: Mapping[str, Any], supported: Sequence[str]) -> tuple[str, str]:
    """torch's name of the number format, and who decided it. `supported`: what the device computes well, best first."""
    if said != "auto":
        if said not in DTYPES:
            raise LaunchError(f"--dtype {said}: not one of auto, {', '.join(DTYPES)}", exit_code=2)
        note = "" if DTYPES[said] in supported else f" (the platform prefers {supported[0]})"
        return DTYPES[said], f"--dtype{note}"
    stored = str(_anywhere(hf_config, ("dtype", "torch_dtype")) or "").removeprefix("torch.")
    if stored in supported:
        return stored, "config.json"
    return supported[0], f"platform; the checkpoint says {stored or 'nothing'}"


def context(said: int | None, hf_config: Mapping[str, Any]) -> tuple[int, str]:
    """Prompt plus output in tokens, and who decided it. Raises LaunchError for more than the model was made for."""
    limit = _anywhere(hf_config, CONTEXT_KEYS)
    if limit is None and said is None:
        raise LaunchError(
            "the model's configuration gives no context length (max_position_embeddings)",
            "say it with --context-length",
        )
    if said is None:
        return int(limit), "config.json"
    if limit is not None and said > int(limit):
        raise LaunchError(
            f"--context-length {said} is more than the model's {limit} positions",
            f"at most {limit}; for a scaled rotary embedding, raise it with --json-model-override-args",
        )
    return said, "--context-length"


def _anywhere(hf_config: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The first of `keys` in the configuration or in its nested text part."""
    for record in (hf_config, hf_config.get("text_config") or {}):
        for key in keys:
            if record.get(key) is not None:
                return record[key]
    return None
