"""From a client's dictionary to validated `SamplingParams`; the server and the in-process engine share it."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from sgcore.engine.messages import TEXT_CONSTRAINTS, SamplingParams
from sgcore.engine.stop_patterns import compiled
from sgcore.errors import LaunchError, RequestError, renamed

MAX_STOPS = 32
MAX_STOP_CHARS = 1024
MAX_STOP_REGEX_CHARS = 256
MAX_ALLOWED_TOKENS = 16384
MAX_BIASES = 1024
"""They go to the device with each step, whose arrays have a largest size together."""
MAX_BAD_WORDS, MAX_BAD_WORD_CHARS = 256, 256
MAX_SAMPLES = 1024
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

MAX_CONSTRAINT_CHARS = 1 << 17
"""As many as OpenAI takes in a schema. What holds the interpreter's lock is done with so many in 30 ms."""
MAX_CHOICES = 4096

ALIASES = {
    "seed": "sampling_seed",
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_grammar": "ebnf",
    "guided_choice": "choice",
    "include_stop_str_in_output": "no_stop_trim",
}
CONSTRAINTS = (*TEXT_CONSTRAINTS, "choice")
NOT_SUPPORTED = frozenset(("custom_params beam_width watermark").split())
"""Known elsewhere, refused here: to ignore a constraint would be to give a wrong answer."""
IGNORED = frozenset({"stream_interval"})
"""Known elsewhere, and without influence on the answer."""


def sampling_from(
    values: Mapping[str, Any] | None, defaults: Mapping[str, Any] | None = None, *, fill_context: bool = False
) -> SamplingParams:
    """Sampling parameters from SGLang's names; None means the default.

    `defaults` come from the model's generation_config. With `fill_context` a request that names no
    `max_new_tokens` may run to the end of the context. Raises `RequestError` (400) naming the field.
    """
    checked: dict[str, Any] = {}
    for given, value in (*(defaults or {}).items(), *(values or {}).items()):
        if given not in IGNORED and (given not in NOT_SUPPORTED or is_asked(value)):
            _take(checked, given, value)
    if fill_context:
        checked.setdefault("max_new_tokens", None)
    constraints = [name for name in CONSTRAINTS if checked.get(name)]
    if len(constraints) > 1:
        raise RequestError(f"{constraints[0]} and {constraints[1]} exclude each other", param=constraints[1])
    if checked.get("top_p") == 0:  # nothing but the most probable token
        checked |= {"top_p": 1.0, "temperature": 0.0}
    params = SamplingParams(**checked)
    limit = params.max_new_tokens
    if limit is not None and params.min_new_tokens > limit:
        raise _refuse("min_new_tokens", f"at most max_new_tokens ({limit})", params.min_new_tokens)
    return params


def preferred_sampling(text: str) -> dict[str, Any]:
    """The values of `--preferred-sampling-params`, a JSON object. Raises LaunchError (exit code 2) for a bad one."""
    try:
        values = msgspec.json.decode(text, type=dict[str, Any])
        sampling_from(values)
    except (msgspec.MsgspecError, RequestError) as error:
        raise LaunchError(f"--preferred-sampling-params: {error}", exit_code=2) from error
    return {ALIASES.get(name, name): value for name, value in values.items()}


def _take(checked: dict[str, Any], given: str, value: Any) -> None:
    """Check one of the client's values; an error speaks of the name that the client has given."""
    name = ALIASES.get(given, given)
    try:
        if value is None:
            _known(name)
        else:
            checked[name] = check(name, value)
    except RequestError as error:
        raise renamed(error, {name: given}) from error


def is_asked(value: Any) -> bool:
    """Whether a field's value asks for anything: false, zero, empty values and lists of them don't."""
    return any(map(is_asked, value)) if isinstance(value, list | tuple) else bool(value)


def check(name: str, value: Any) -> Any:
    """The value of one field, checked and normalised; `name` is checked as well."""
    _known(name)
    return CHECKS[name](name, value)


def _known(name: str) -> None:
    if name in CHECKS:
        return
    if name in NOT_SUPPORTED:
        raise RequestError(f"{name} is not supported yet by this server", param=name, code="unsupported_parameter")
    near = get_close_matches(str(name), CHECKS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(CHECKS))}"
    raise RequestError(f"unknown sampling parameter {str(name)[:64]!r}{hint}", param=str(name)[:64])


def _refuse(name: str, allowed: str, value: Any) -> RequestError:
    return RequestError(f"{name} must be {allowed}, got {reprlib.repr(value)}", param=name)


def _integer(low: int, high: int, allowed: str) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _refuse(name, allowed, value)
        return value

    return check


def _number(low: float, high: float, allowed: str, above: bool = False) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _refuse(name, allowed, value)
        if not low <= value <= high or not math.isfinite(value) or (above and value == low):
            raise _refuse(name, allowed, value)
        return float(value)

    return check


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, "true or false", value)
    return value


def _top_k(name: str, value: Any) -> int:
    count = _integer(-1, INT32_MAX, "-1 (off) or a whole number from 1")(name, value)
    return count or -1


def _is_text(value: Any, most_chars: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most_chars


def _texts(least: int, most: int, most_chars: int, allowed: str) -> Callable[[str, Any], tuple[str, ...]]:
    def check(name: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            raise _refuse(name, allowed, value)
        if not all(_is_text(text, most_chars) for text in value):
            raise _refuse(name, allowed, value)
        return tuple(value)

    return check


def _stops(name: str, value: Any) -> tuple[str, ...]:
    allowed = f"a string or a list of at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters"
    stops = [value] if isinstance(value, str) and _is_text(value, MAX_STOP_CHARS) else value
    return _texts(0, MAX_STOPS, MAX_STOP_CHARS, allowed)(name, stops)


def _stop_patterns(name: str, value: Any) -> tuple[str, ...]:
    sources = [value] if isinstance(value, str) else value
    allowed = f"a regular expression or a list of at most {MAX_STOPS}, of 1 to {MAX_STOP_REGEX_CHARS} characters"
    if not isinstance(sources, list | tuple) or len(sources) > MAX_STOPS:
        raise _refuse(name, allowed, value)
    for source in sources:
        if not _is_text(source, MAX_STOP_REGEX_CHARS):
            raise _refuse(name, allowed, value)
        try:
            compiled(source)
        except ValueError as error:
            raise RequestError(f"{name} {source!r} can't be used: {error}", param=name) from error
    return tuple(sources)


def _token_ids(name: str, value: Any) -> tuple[int, ...]:
    allowed = "a list of at most 1024 token ids"
    if not isinstance(value, list | tuple) or len(value) > 1024:
        raise _refuse(name, allowed, value)
    return tuple(_integer(0, INT32_MAX, allowed)(name, token) for token in value)


def _allowed(name: str, value: Any) -> tuple[int, ...]:
    allowed = f"a list of 1 to {MAX_ALLOWED_TOKENS:,} token ids"
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_ALLOWED_TOKENS:
        raise _refuse(name, allowed, value)
    token = _integer(0, INT32_MAX, allowed)
    return tuple(token(name, one) for one in value)


def _logit_bias(name: str, value: Any) -> dict[int, float]:
    allowed = f"an object of at most {MAX_BIASES:,} token ids and numbers from -100 to 100"
    if not isinstance(value, Mapping) or len(value) > MAX_BIASES:
        raise _refuse(name, allowed, value)
    number = _number(-100, 100, allowed)
    return {_bias_token(name, allowed, token): number(name, bias) for token, bias in value.items()}


def _bias_token(name: str, allowed: str, token: Any) -> int:
    if isinstance(token, str) and token.isascii() and token.isdigit() and len(token) <= 10:
        token = int(token)
    return _integer(0, INT32_MAX, allowed)(name, token)


def _constraint(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CONSTRAINT_CHARS:
        allowed = f"a text of 1 to {MAX_CONSTRAINT_CHARS:,} characters"
        raise _refuse(name, allowed, value)
    return value


def _json_constraint(name: str, value: Any) -> str:
    """JSON as text, or as what it says."""
    try:
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        decoded = msgspec.json.decode(text.encode())
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"{name} is no JSON: {error}", param=name) from error
    if not isinstance(decoded, dict | bool):
        raise _refuse(name, "a JSON object", value)
    return _constraint(name, text)


def _constraint_after(name: str, value: Any) -> str | tuple[int, ...]:
    return value if isinstance(value, str) and len(value) <= MAX_STOP_CHARS else _token_ids(name, value)


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_new_tokens": _integer(0, INT32_MAX, "a whole number from 0"),
    "min_new_tokens": _integer(0, INT32_MAX, "a whole number from 0"),
    "temperature": _number(0, 1e6, "a number from 0 (greedy)"),
    "top_p": _number(0, 1, "a number from 0 (greedy) to 1"),
    "top_k": _top_k,
    "min_p": _number(0, 1, "a number from 0 to 1"),
    "frequency_penalty": _number(-2, 2, "a number from -2 to 2"),
    "presence_penalty": _number(-2, 2, "a number from -2 to 2"),
    "repetition_penalty": _number(0, 10, "a number above 0 and at most 10", above=True),
    "logit_bias": _logit_bias,
    "sampling_seed": _integer(-INT64_MAX - 1, INT64_MAX, "a 64-bit whole number"),
    "n": _integer(1, MAX_SAMPLES, f"a whole number from 1 to {MAX_SAMPLES}"),
    "stop": _stops,
    "stop_regex": _stop_patterns,
    "stop_token_ids": _token_ids,
    "allowed_token_ids": _allowed,
    "bad_words": _texts(
        0,
        MAX_BAD_WORDS,
        MAX_BAD_WORD_CHARS,
        f"a list of at most {MAX_BAD_WORDS} texts of 1 to {MAX_BAD_WORD_CHARS} characters",
    ),
    "ignore_eos": _boolean,
    "no_stop_trim": _boolean,
    "skip_special_tokens": _boolean,
    "spaces_between_special_tokens": _boolean,
    "json_schema": _json_constraint,
    "regex": _constraint,
    "ebnf": _constraint,
    "structural_tag": _json_constraint,
    "choice": _texts(
        1,
        MAX_CHOICES,
        MAX_STOP_CHARS,
        f"a list of 1 to {MAX_CHOICES:,} texts of at most {MAX_STOP_CHARS:,} characters",
    ),
    "constraint_after": _constraint_after,
}
"""Field of `SamplingParams` -> its check."""
