"""What a prompt may ask for, whichever way it comes in: routes, programs, the language and the engine share it."""

from __future__ import annotations

import reprlib
from typing import Any

import msgspec

from sgcore.engine.messages import SamplingParams
from sgcore.engine.sampling import INT32_MAX
from sgcore.errors import RequestError

MAX_TOP_LOGPROBS = 256
MAX_LOGPROB_ENTRIES = 1 << 22
"""A prompt and answer of 128k tokens with 30 alternatives each; as JSON 200 MB."""
MAX_LOGPROB_IDS = 256
MAX_RID_CHARS = 256
"""Characters of an id that a client gives. Those of a request's parts are a little longer."""
MAX_NAMESPACE_CHARS = 1024
MAX_TIMEOUT_S = 1e6


def check_number(name: str, value: Any, low: int, high: int = INT32_MAX) -> None:
    """Raise `RequestError` 400 for anything but a whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        message = f"{name} must be a whole number from {low} to {high}, got {reprlib.repr(value)}"
        raise RequestError(message, param=name)


def check_name(name: str, value: Any, low: int, high: int) -> None:
    """Raise `RequestError` 400 for anything but a text of `low` to `high` characters that messages can carry."""
    if not isinstance(value, str) or not low <= len(value) <= high:
        raise RequestError(f"{name} must be a text of {low} to {high} characters", param=name)
    check_text(name, value)


def check_text(name: str, value: str) -> None:
    """Raise `RequestError` 400 for a text with half a surrogate pair: no encoding has it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name} is no Unicode text: {error.reason}", param=name) from error


def context_exceeded(tokens: int, context: int, pool: int) -> RequestError:
    """The refusal of a prompt that leaves no room for a token; clients know it by its phrases, the code among them."""
    message = (
        f"The prompt of {tokens} tokens is longer than the model's context length allows. "
        f"This model's maximum context length is {min(context, pool)} tokens here, and at least one of them is for "
        f"the answer (context_length_exceeded: context length {context}, KV cache {pool} tokens)"
    )
    return RequestError(message, param="prompt", code="context_length_exceeded")


def logprob_fields(is_wanted: bool, start: Any, top: Any) -> dict[str, Any]:
    """The fields of a prompt that `return_logprob`, `logprob_start_len` and `top_logprobs_num` stand for."""
    if not is_wanted:
        return {}
    check_number("logprob_start_len", start, -1)
    check_number("top_logprobs_num", top, 0, MAX_TOP_LOGPROBS)
    return {"logprob_start": start, "top_logprobs": top}


def ids_of_each(value: Any, count: int) -> list[Any]:
    """`token_ids_logprob` of each of `count` prompts: one list of ids stands for all."""
    if not isinstance(value, list) or not any(isinstance(entry, list) for entry in value):
        return [value] * count
    if len(value) != count:
        raise RequestError(f"token_ids_logprob has {len(value)} entries for {count} prompts", param="token_ids_logprob")
    return value


def with_logprob_ids(sampling: SamplingParams, ids: Any, is_wanted: bool) -> SamplingParams:
    """Parameters that ask for the log-probabilities of these tokens (`token_ids_logprob`) beside the others."""
    if not ids:
        return sampling
    if not is_wanted:
        raise RequestError("token_ids_logprob needs return_logprob", param="token_ids_logprob")
    if not isinstance(ids, list | tuple) or len(ids) > MAX_LOGPROB_IDS:
        allowed = f"a list of at most {MAX_LOGPROB_IDS} token ids"
        raise RequestError(f"token_ids_logprob must be {allowed}, got {reprlib.repr(ids)}", param="token_ids_logprob")
    for token in ids:
        check_number("token_ids_logprob", token, 0)
    return msgspec.structs.replace(sampling, logprob_token_ids=tuple(ids))


def check_timeout(value: Any) -> None:
    """Raise `RequestError` 400 for anything but None or a number of seconds."""
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= MAX_TIMEOUT_S:
        raise RequestError(f"timeout must be above 0 and at most {MAX_TIMEOUT_S:g} seconds", param="timeout")
