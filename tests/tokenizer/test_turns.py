"""Chat templates taken apart: the turns behind one another are the whole, or the template is named as not so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgcore.errors import RequestError
from sgcore.tokenizer.tokenizer import Tokenizer
from sgcore.tokenizer.turns import chat_turns

DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|b|>system\nBe kind<|e|>\n{% endif %}"
    "<|b|>{{ m['role'] }}\n{{ m['content'] }}<|e|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|b|>assistant\n{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]\n\n{{ m['content'] | trim }}<eot>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n\n{% endif %}"
)
ALTERNATING = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %}{{ m['content'] }}</s>{% endif %}"
    "{% endfor %}"
)
SYSTEM_WITHIN_USER = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = messages[0]['content'] + '\n' %}"
    "{% else %}{% set rest = messages %}{% set sys = '' %}{% endif %}{% for m in rest %}"
    "{% if m['role'] == 'user' %}[I]{{ sys if loop.first else '' }}{{ m['content'] }}[/I]{% else %}"
    "{{ m['content'] }}</s>{% endif %}{% endfor %}"
)
THOUGHTS_CUT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% if loop.last %}!{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Hf:
    """As much of a tokenizer as templates need."""

    eos_token_id = 1
    all_special_ids = (1,)

    def __init__(self, template: str | None, bos: str | None = None) -> None:
        self.chat_template, self.bos_token = template, bos

    def __len__(self) -> int:
        return 256

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1, *text.encode()] if text.startswith("<") else list(text.encode())

    @property
    def special_tokens_map(self) -> dict[str, str]:
        return {"bos_token": self.bos_token or ""}

    def get_chat_template(self, chat_template: str | None, tools: Any) -> str:
        return chat_template or self.chat_template or ""


def tokenizer(template: str | None, bos: str | None = None) -> Tokenizer:
    return Tokenizer(Hf(template, bos), {})


@pytest.mark.parametrize(
    ("template", "bos", "start", "roles"),
    [
        (DEFAULT_SYSTEM, None, "<|b|>system\nBe kind<|e|>\n", {"system", "user", "assistant"}),
        (DEFAULT_SYSTEM, "<|b|>", "<|b|>system\nBe kind<|e|>\n", {"system", "user", "assistant"}),
        (HEADERS, "<s>", "<s>", {"system", "user", "assistant"}),
        (ALTERNATING, "<s>", "<s>", {"user", "assistant"}),
    ],
)
def test_templates_that_are_turns(template: str, bos: str | None, start: str, roles: set[str]) -> None:
    turns = chat_turns(tokenizer(template, bos))
    assert turns.is_concatenative and turns.start["user"] == start and set(turns.roles) == roles


@pytest.mark.parametrize("template", [DEFAULT_SYSTEM, HEADERS])
@settings(deadline=None)
@given(words=st.lists(st.text("ab c{}\n", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=7))
def test_turns_behind_one_another_are_the_whole(template: str, words: list[str]) -> None:
    whole = tokenizer(template, "<s>")
    turns = chat_turns(whole)
    talk = [(("user", "assistant")[place % 2], word) for place, word in enumerate(words)]
    for conversation in (talk, [("system", "x"), *talk]):
        messages = [{"role": role, "content": content} for role, content in conversation]
        assert turns.render(conversation, "assistant") == whole.apply_chat_template(messages)


@pytest.mark.parametrize("template", [SYSTEM_WITHIN_USER, THOUGHTS_CUT])
def test_templates_that_are_not_say_so(template: str) -> None:
    turns = chat_turns(tokenizer(template))
    assert not turns.is_concatenative and turns.reason and turns.has_template


def test_no_template() -> None:
    turns = chat_turns(tokenizer(None))
    assert not turns.is_concatenative and not turns.has_template
    with pytest.raises(RequestError, match="no chat template"):
        tokenizer(None).apply_chat_template([])


def test_special_tokens_that_end_a_turn_are_told() -> None:
    assert chat_turns(tokenizer(DEFAULT_SYSTEM)).stop_token_ids == [1]
    assert chat_turns(tokenizer(ALTERNATING)).stop_token_ids == [1]
