"""The word `gen`: let the model continue."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from sgcore.api import Primitive
from sgcore.lang import Capture, Generate, State, Steps
from sgcore_lang.registry import word
from sgcore_lang.sampling import OPTIONS, SERVER_NAMES, stops
from sgcore_lang.schema import json_schema_of

ENDS_OF_NUMBERS = (" ", "\n")
TYPES: dict[Any, tuple[str, tuple[str, ...]]] = {
    int: (r"[-+]?[0-9]+[ \n]*", ENDS_OF_NUMBERS),
    float: (r"[-+]?[0-9]*\.?[0-9]+[ \n]*", ENDS_OF_NUMBERS),
    bool: (r"(True|False)", ()),
    str: (r"\"[\w\d\s]*\"", ()),
}
"""Python type -> the expression that its text matches, and stop strings."""
TYPE_NAMES = {kind.__name__: kind for kind in TYPES}


class Gen(Primitive):
    """`gen(name, ...)`: continue, and keep the new text as the variable `name`.

    `regex`, `json_schema` (text, dictionary, pydantic model or msgspec type) and `dtype` (int, float, bool, str)
    constrain the text; with `choices` it is `select`. What is None is taken from the run. Raises ValueError for a bad
    expression or schema.
    """

    def __init__(
        self,
        name: str | None = None,
        max_tokens: int | None = None,
        min_tokens: int | None = None,
        n: int | None = None,
        stop: str | list[str] | None = None,
        stop_token_ids: list[int] | None = None,
        stop_regex: str | list[str] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        ignore_eos: bool | None = None,
        return_logprob: bool | None = None,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        return_text_in_logprobs: bool | None = None,
        dtype: type | str | None = None,
        choices: list[str] | None = None,
        choices_method: str | None = None,
        regex: str | None = None,
        json_schema: Any = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if value is not None and key not in _NOT_SENT}
        self.name = name
        self.choice = None if choices is None else _select(name, choices, temperature, choices_method)
        self.options = {key: given.pop(key) for key in OPTIONS if key in given}
        self.params = {SERVER_NAMES.get(key, key): value for key, value in given.items()}
        for key in ("stop_token_ids", "stop_regex"):
            if isinstance(self.params.get(key), list):
                self.params[key] = list(self.params[key])
        self._constrain(dtype, regex, json_schema)

    def _constrain(self, dtype: type | str | None, regex: str | None, json_schema: Any) -> None:
        ends: tuple[str, ...] = ()
        if dtype is not None:
            if regex is not None:
                warnings.warn("dtype and regex are both given; dtype counts", stacklevel=4)
            regex, ends = _type(dtype)
        if regex is not None:
            self.params["regex"] = regex
        if json_schema is not None:
            self.params["json_schema"] = json_schema_of(json_schema)
        if "stop" in self.params or ends:
            self.params["stop"] = stops(self.params.get("stop"), *ends)

    def run(self, state: State) -> Steps:
        if self.choice is not None:
            yield from self.choice.run(state)
        else:
            yield Capture(self.name, Generate(self.params, self.options))

    def names(self) -> Sequence[str | None]:
        return [self.name]


_NOT_SENT = ("self", "name", "dtype", "choices", "choices_method", "regex", "json_schema", "__class__")


def _select(name: str | None, choices: list[str], temperature: float | None, method: str | None) -> Primitive:
    more = {} if method is None else {"choices_method": method}
    made: Primitive = word("select")(name, choices, temperature or 0.0, **more)
    return made


def _type(dtype: type | str) -> tuple[str, tuple[str, ...]]:
    kind = TYPE_NAMES.get(dtype) if isinstance(dtype, str) else dtype
    if kind not in TYPES:
        raise ValueError(f"dtype must be one of {', '.join(TYPE_NAMES)}, got {dtype!r}")
    return TYPES[kind]


class _Typed(Gen):
    dtype: type

    def __init__(
        self,
        name: str | None = None,
        max_tokens: int | None = None,
        n: int | None = None,
        stop: str | list[str] | None = None,
        stop_token_ids: list[int] | None = None,
        stop_regex: str | list[str] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        frequency_penalty: float | None = None,
        presence_penalty: float | None = None,
        ignore_eos: bool | None = None,
        return_logprob: bool | None = None,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        return_text_in_logprobs: bool | None = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        super().__init__(dtype=self.dtype, **given)


class GenInt(_Typed):
    """`gen_int(name, ...)`: a whole number."""

    dtype = int


class GenString(_Typed):
    """`gen_string(name, ...)`: a text in quotation marks."""

    dtype = str
