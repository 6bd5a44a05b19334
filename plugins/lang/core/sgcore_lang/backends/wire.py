"""Calls as `/generate` takes them, and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgcore.lang import Generate, Generated, Media, Score
from sgcore_lang.backend import Call, Piece, Reply, Turns, asks_model
from sgcore_lang.errors import BackendError

COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")


def body_of(call: Call) -> dict[str, Any]:
    """The body of a request."""
    body: dict[str, Any] = {"pieces": [_piece(piece) for piece in call.pieces]}
    if call.ids:
        body["input_ids"] = list(call.ids)
    elif call.text:
        body["text"] = call.text
    if call.group is not None:
        body["group"] = {"id": call.group[0], "size": call.group[1]}
    return body


def _piece(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"text": piece}
    if isinstance(piece, Score):
        return {"select": {"choices": list(piece.choices), "method": piece.method}}
    if isinstance(piece, Media):
        return {"media": {"kind": piece.kind, "url": piece.url, "options": dict(piece.options)}}
    assert isinstance(piece, Generate)
    return {"gen": {"sampling_params": dict(piece.params), **piece.options}}


def reply_of(call: Call, answer: Mapping[str, Any]) -> Reply:
    """What came of a call."""
    asking = [place for place, piece in enumerate(call.pieces) if asks_model(piece)]
    results = [_generated(answer["pieces"][place]) for place in asking if place < len(answer["pieces"])]
    meta = answer["meta_info"]
    reason = meta["finish_reason"]
    error = BackendError(reason["message"], reason["status_code"]) if reason["type"] == "abort" else None
    return Reply(results, answer["input_ids"], error, {name: meta[name] for name in COUNTS})


def _generated(result: Mapping[str, Any]) -> Generated:
    texts = result["text"] if isinstance(result["text"], list) else [result["text"]]
    return Generated(texts[0], tuple(texts), result["meta_info"])


def turns_of(told: Mapping[str, Any] | None) -> Turns | None:
    """A server's chat template; None: it has none, or is too old to say."""
    if not told or not told["has_template"]:
        return None
    roles = {role: (around[0], around[1]) for role, around in told["roles"].items()}
    return Turns(told["is_concatenative"], told["reason"], told["start"], roles, told["stop_token_ids"])
