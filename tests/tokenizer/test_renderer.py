"""Chat templates render as transformers renders them, within bounds, and a bad one harms nobody."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from sgcore.tokenizer import renderer
from sgcore.tokenizer.conversation import render_conversation
from sgcore.tokenizer.renderer import RENDERER, TemplateError

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "two\nlines é \ud83d", "name": None},
    {"role": "assistant", "content": "yes ", "reasoning": "why", "tool_calls": [{"function": {"arguments": {"a": 1}}}]},
]
TEMPLATES = {
    "plain": PLAIN,
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "trimmed blocks": "  {% if true %}\n  a\n  {% endif %}\nb{{ bos_token }}",
    "JSON": "{{ messages | tojson }}{{ tools | tojson(indent=2) }}{{ messages[1] | tojson(sort_keys=true) }}<&>",
    "namespaces": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "dictionaries": "{% set d = dict(a=1) %}{{ d.a }}{{ d.items() | list }}{{ dict.fromkeys([1], 2) }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "reasoning": "{{ messages[1].reasoning_content }}{{ messages[1].thinking }}",
    "nothing said": "{{ messages[0].name is defined }}{{ tools is none }}{{ documents is none }}",
    "prompt": "{% if add_generation_prompt %}>{% endif %}{{ given }}",
    "year": "{{ strftime_now('%Y') }}",
    "macros": "{% macro show(m) %}[{{ m.content | trim }}]{% endmacro %}{{ show(messages[0]) }}{{ show(messages[1]) }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "f"}}]], ids=["none", "tools"])
def test_templates_render_as_in_transformers(name: str, tools: Any) -> None:
    given = {"bos_token": "<s>", "add_generation_prompt": True, "given": {"a": [10**30, 1.5, None]}, "tools": tools}
    plain = [{key: value for key, value in message.items() if value is not None} for message in TALK]
    (wanted,), _ = render_jinja_template([plain], chat_template=TEMPLATES[name], **given)
    assert render_conversation(RENDERER, TEMPLATES[name], TALK, given) == wanted


@pytest.mark.parametrize("template", [PLAIN, PLAIN.replace("content", "content | trim")], ids=["kept", "trimmed"])
def test_a_message_that_is_continued_ends_as_in_transformers(template: str) -> None:
    given = {"continue_final_message": True}
    (wanted,), _ = render_jinja_template([TALK], chat_template=template, **given)
    assert render_conversation(RENDERER, template, TALK, given) == wanted
    with pytest.raises(TemplateError, match="doesn't show the message"):
        render_conversation(RENDERER, "{{ messages[0].content }}", TALK, given)


REFUSED = {
    "its own words": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "no template": ("{% for %}", "."),
    "the interpreter": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "names of Python's": ("{% set ns = namespace(__init__=1) %}", "may not keep"),
    "too much text": ("{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "writes more than"),
    "too much memory": ("{{ 'x' * 3000000000 }}", "memory"),
    "no end of itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "too deeply"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_can_not_be_rendered_says_why(name: str) -> None:
    template, says = REFUSED[name]
    with pytest.raises(TemplateError, match=says):
        RENDERER.render(template, {"messages": TALK})
    assert RENDERER.render(PLAIN, {"messages": [{"role": "a", "content": "b"}]}) == "<a>b"


def test_a_template_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "TIMEOUT_S", 0.5)
    own = renderer.Renderer()
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    try:
        with pytest.raises(TemplateError, match=r"not done after 0\.5 s"):
            own.render(endless, {})
        monkeypatch.setattr(renderer, "TIMEOUT_S", 20.0)
        assert own.render(PLAIN, {"messages": []}) == ""
    finally:
        own.close()


def test_a_process_that_dies_fails_nobody_else() -> None:
    own = renderer.Renderer()
    try:
        assert own.render("a", {}) == "a"
        process = own._idle.get()
        assert process is not None
        os.kill(process.process.pid, signal.SIGKILL)
        process.process.wait()
        own._idle.put(process)
        assert own.render("b", {}) == "b"
    finally:
        own.close()


def test_a_process_that_nobody_waits_for_ends_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the server was killed while a template ran."""
    monkeypatch.setattr(renderer, "TIMEOUT_S", -0.5)  # half a second of its own
    process = renderer.RenderProcess()
    process.socket.sendall(b'["{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", {}]\n')
    assert process.process.wait(20) == -signal.SIGALRM
    process.close()


def test_an_answer_that_nobody_took_is_given_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key was pressed while somebody waited: the process has the answer still to give."""
    pool = renderer.Renderer()
    assert pool.render("{{ word }}", {"word": "first"}) == "first"

    def interrupted(process: renderer.RenderProcess, line: bytes) -> bytes:
        process.socket.sendall(line)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(renderer.RenderProcess, "ask", interrupted)
        pool.render("{{ word }}", {"word": "of somebody"})
    assert pool.render("{{ word }}", {"word": "of somebody else"}) == "of somebody else"
    pool.close()
