"""A finished or growing sequence as the dictionary that `/generate` and `Engine.generate` answer with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sgcore.engine.messages import TokenLogprobs

if TYPE_CHECKING:
    from sgcore.engine.generation import Generation

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON can't say."""

LogprobRow = tuple[float | None, int, str | None]


def to_dict(
    generation: Generation,
    *,
    tokenizer: Any = None,
    want_logprobs: bool = False,
    want_top_logprobs: bool = False,
    return_text_in_logprobs: bool = False,
    weight_version: str = "default",
) -> dict[str, Any]:
    """`{text, output_ids, meta_info}` in SGLang's shape; `text` is absent without a tokenizer."""
    meta: dict[str, Any] = {
        "id": generation.rid,
        "finish_reason": finish_reason(generation),
        "prompt_tokens": len(generation.prompt_ids),
        "completion_tokens": len(generation.output_ids),
        "cached_tokens": generation.cached_tokens,
        "num_retractions": generation.retractions,
        "weight_version": weight_version,
    }
    if generation.is_finished:
        meta["e2e_latency"] = generation.finished - generation.created
    if want_logprobs:
        texts = tokenizer if return_text_in_logprobs else None
        meta.update(_logprob_lists(generation, texts, want_top_logprobs))
    reply: dict[str, Any] = {} if tokenizer is None else {"text": generation.text}
    return reply | {"output_ids": list(generation.output_ids), "meta_info": meta}


def finish_reason(generation: Generation) -> dict[str, Any] | None:
    """None while running; otherwise `{type, matched | length | message, status_code}`."""
    if generation.finish is None:
        return None
    if generation.finish == "length":
        return {"type": "length", "length": len(generation.output_ids)}
    if generation.finish == "abort":
        return {"type": "abort", "message": generation.message, "status_code": generation.status}
    return {"type": generation.finish, "matched": generation.matched}


def finite(logprob: float | None) -> float | None:
    """A log-probability that JSON can carry."""
    if logprob is None:
        return None
    return logprob if logprob > LOWEST_LOGPROB else LOWEST_LOGPROB  # also NaN


def _logprob_lists(generation: Generation, tokenizer: Any, want_top: bool) -> dict[str, Any]:
    lists: dict[str, Any] = {
        "input_token_logprobs": _rows(generation.prompt_logprobs, tokenizer),
        "output_token_logprobs": _rows(generation.logprobs, tokenizer),
        "output_token_logprobs_length": len(generation.logprobs),
    }
    if want_top:
        lists["input_top_logprobs"] = _top_rows(generation.prompt_logprobs, tokenizer)
        lists["output_top_logprobs"] = _top_rows(generation.logprobs, tokenizer)
    if any(entry.asked for entry in (*generation.prompt_logprobs, *generation.logprobs)):
        lists["input_token_ids_logprobs"] = _asked_rows(generation.prompt_logprobs, tokenizer)
        lists["output_token_ids_logprobs"] = _asked_rows(generation.logprobs, tokenizer)
    return lists


def _row(logprob: float | None, token: int, tokenizer: Any) -> LogprobRow:
    return finite(logprob), token, None if tokenizer is None else tokenizer.token_text(token)


def _rows(entries: Sequence[TokenLogprobs], tokenizer: Any) -> list[LogprobRow]:
    return [_row(entry.logprob, entry.token, tokenizer) for entry in entries]


def _top_rows(entries: Sequence[TokenLogprobs], tokenizer: Any) -> list[list[LogprobRow] | None]:
    return [[_row(logprob, token, tokenizer) for logprob, token in entry.top] or None for entry in entries]


def _asked_rows(entries: Sequence[TokenLogprobs], tokenizer: Any) -> list[list[LogprobRow] | None]:
    return [[_row(logprob, token, tokenizer) for logprob, token in entry.asked] or None for entry in entries]
