"""What ends a text is shown or cut as asked, by the engine as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import regex

from sgcore import Engine
from sgcore.errors import RequestError

GREEDY: dict[str, Any] = {"max_new_tokens": 60, "temperature": 0, "ignore_eos": True}


def free_text(engine: Engine) -> str:
    text: str = engine.generate("The licence", GREEDY)["text"]
    return text


def ask(engine: Engine, **sampling: Any) -> tuple[str, dict[str, Any]]:
    reply = engine.generate("The licence", {**GREEDY, **sampling})
    return reply["text"], reply["meta_info"]["finish_reason"]


@pytest.mark.parametrize("keeps", [False, True])
def test_an_expression_ends_the_text(engine: Engine, keeps: bool) -> None:
    free = free_text(engine)
    source = r"[a-z]{2}[^a-z]"
    found = regex.search(source, free)
    assert found is not None and 0 < found.end() < len(free) - 4
    text, reason = ask(engine, stop_regex=source, no_stop_trim=keeps)
    assert text == free[: found.end() if keeps else found.start()]
    assert reason == {"type": "stop", "matched": source}
    shown = ""
    for reply in engine.generate("The licence", {**GREEDY, "stop_regex": [source, "never!"]}, stream=True):
        assert reply["text"].startswith(shown)
        shown = reply["text"]
    assert shown == free[: found.start()]


def test_what_ends_first_decides(engine: Engine) -> None:
    free = free_text(engine)
    late, early = free[30:34], regex.escape(free[12:15])
    assert free.find(late) == 30
    text, reason = ask(engine, stop=[late], stop_regex=[early])
    assert text == free[: free.find(free[12:15])] and reason["matched"] == early
    text, reason = ask(engine, stop=[free[12:15]], stop_regex=[regex.escape(late)])
    assert text == free[: free.find(free[12:15])] and reason["matched"] == free[12:15]


def test_a_stop_token_is_shown_as_asked(engine: Engine) -> None:
    assert engine.tokenizer is not None
    ids = engine.generate("The licence", GREEDY)["output_ids"]
    place = next(n for n, token in enumerate(ids) if n > 3 and token not in ids[:n])
    for keeps in (False, True):
        reply = engine.generate(
            "The licence", {**GREEDY, "stop_token_ids": [ids[place]], "include_stop_str_in_output": keeps}
        )
        assert reply["output_ids"] == ids[: place + 1]
        assert reply["text"] == engine.tokenizer.decode(ids[: place + keeps])


def test_an_expression_that_takes_too_long_ends_its_own_request(engine: Engine) -> None:
    with pytest.raises(RequestError, match="simplify it") as caught:
        engine.generate("The licence", {**GREEDY, "stop_regex": r"^(?:(?:\X|\X\X)+)+\p{Han}"})
    assert caught.value.status == 400
    assert ask(engine)[0] == free_text(engine)
