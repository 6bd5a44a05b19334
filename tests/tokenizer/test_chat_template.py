"""A tokenizer's chat template: which one is taken, what is refused under which name, and whose fault it is."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer as Trained
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from sgcore.errors import RequestError
from sgcore.tokenizer import renderer
from sgcore.tokenizer.renderer import RenderProcess
from sgcore.tokenizer.tokenizer import Tokenizer
from sgcore.tokenizer.turns import chat_turns

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
PARTS = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
TALK: list[Any] = [{"role": "user", "content": "a"}]
CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}


def hf(template: Any, kind: Any = PreTrainedTokenizerFast) -> Any:
    trained = Trained(WordLevel({"a": 0, "<s>": 1, "</s>": 2, "?": 3}, unk_token="?"))
    return kind(tokenizer_object=trained, bos_token="<s>", eos_token="</s>", chat_template=template)


@pytest.mark.parametrize("template", [PARTS, PARTS.replace("p.text", "p.text | trim")], ids=["kept", "trimmed"])
def test_a_message_of_parts_is_continued_as_in_transformers(template: str) -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b "}, {"type": "image"}]
    talk = [{"role": "assistant", "content": parts}]
    wanted = hf(template).apply_chat_template(talk, tokenize=False, **CONTINUED)
    assert Tokenizer(hf(template), {}).apply_chat_template(talk, **CONTINUED) == wanted
    assert parts[1] == {"type": "text", "text": "b "}


@pytest.mark.parametrize(
    "messages, given, said",
    [
        ([], {}, "empty"),
        (["a"], {}, "must be an object, not str"),
        (TALK, {"continue_final_message": True}, "exclude each other"),
        ([{"role": "user", "content": [{"type": "image"}]}], CONTINUED, "no text"),
        (TALK, {"a": {(1, 2): 3}}, "no JSON"),
    ],
)
def test_conversations_that_are_refused(messages: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=f"the chat template refused the messages: .*{said}") as raised:
        Tokenizer(hf(PLAIN), {}).apply_chat_template(messages, **given)
    assert raised.value.status == 400 and raised.value.param == "messages"


def test_a_refusal_names_the_template() -> None:
    templates = {
        "default": "default",
        "tool_use": "{{ raise_exception('bad') if messages[0].role == 'x' else 'tools' }}",
    }
    tokenizer, tools = Tokenizer(hf(templates), {}), [{"type": "function"}]
    assert tokenizer.apply_chat_template(TALK) == "default"
    assert tokenizer.apply_chat_template(TALK, tools=tools) == "tools"
    assert tokenizer.apply_chat_template(TALK, chat_template="tool_use") == "tools"
    with pytest.raises(RequestError, match="the chat template 'tool_use' refused the messages: bad"):
        tokenizer.apply_chat_template([{"role": "x"}], tools=tools)
    given = Tokenizer(hf(templates), {}, "{{ raise_exception('no') }}")
    with pytest.raises(RequestError, match="the template of --chat-template refused the messages: no"):
        given.apply_chat_template(TALK)


def test_a_tokenizer_whose_code_makes_the_prompt() -> None:
    class Own(PreTrainedTokenizerFast):
        def apply_chat_template(self, conversation: Any, **arguments: Any) -> str:
            if not conversation:
                raise KeyError("nothing said")
            return "made by code"

    tokenizer = Tokenizer(hf(PLAIN, Own), {})
    assert tokenizer.apply_chat_template(TALK) == "made by code"
    with pytest.raises(RequestError, match="the tokenizer refused the messages: 'nothing said'"):
        tokenizer.apply_chat_template([])


def test_a_process_that_has_ended_is_the_fault_of_no_message_and_no_template(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(self: RenderProcess, line: bytes) -> bytes:
        self.process.kill()
        self.process.wait()
        return ask(self, line)

    ask = RenderProcess.ask
    tokenizer = Tokenizer(hf(PLAIN), {})
    with monkeypatch.context() as patched:
        patched.setattr(renderer.RenderProcess, "ask", ended)
        for call in (lambda: tokenizer.apply_chat_template(TALK), lambda: chat_turns(tokenizer)):
            with pytest.raises(RequestError, match="the chat template was not rendered: the process") as raised:
                call()
            assert raised.value.status == 500
    assert tokenizer.apply_chat_template(TALK) == "<user>a"
    assert chat_turns(tokenizer).has_template
