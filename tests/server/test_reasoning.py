"""Reasoning on the chat route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.server.conftest import Start
from tests.server.fake import ScriptedFrontend

HELLO: Any = [{"role": "user", "content": "hi"}]
THOUGHT = "Let me <b>think</b>.\n\n1 < 2"
SCRIPT = f"<think>\n{THOUGHT}\n</think>\n\nYes, it is."
TOOL = {"type": "function", "function": {"name": "now"}}


@pytest.fixture(scope="module")
def frontend() -> ScriptedFrontend:
    return ScriptedFrontend(tool_call_parser="hermes", reasoning_parser="qwen3")


@pytest.fixture(scope="module")
def ai(start: Start, frontend: ScriptedFrontend) -> Iterator[openai.OpenAI]:
    with start(frontend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def ask(ai: openai.OpenAI, **options: Any) -> Any:
    body = {name: options.pop(name) for name in list(options) if name not in ("stream", "tools", "tool_choice")}
    return ai.chat.completions.create(model="fake", messages=HELLO, extra_body=body, **options)


def streamed(ai: openai.OpenAI, **options: Any) -> list[dict[str, Any]]:
    return [c.choices[0].delta.model_dump(exclude_unset=True) for c in ask(ai, stream=True, **options)]


def test_reasoning_is_apart_from_content(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = SCRIPT
    message = ask(ai).choices[0].message
    assert (message.content, message.reasoning_content) == ("Yes, it is.", THOUGHT)
    deltas = streamed(ai)
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == THOUGHT
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes, it is."
    assert sum("reasoning_content" in delta for delta in deltas) > 10
    assert not any(delta.get("content") and delta.get("reasoning_content") for delta in deltas)


def test_reasoning_that_the_prompt_began(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = SCRIPT.removeprefix("<think>\n")
    kwargs = {"suffix": "<|im_start|>assistant\n<think>\n"}
    message = ask(ai, chat_template_kwargs=kwargs).choices[0].message
    assert (message.content, message.reasoning_content) == ("Yes, it is.", THOUGHT)


@pytest.mark.parametrize("suffix, expected", [("<|im_start|>assistant\n<think>\n", "</think>"), ("", ())])
def test_a_schema_waits_for_the_end_of_reasoning(
    ai: openai.OpenAI, frontend: ScriptedFrontend, suffix: str, expected: Any
) -> None:
    frontend.script = SCRIPT
    ask(ai, chat_template_kwargs={"suffix": suffix}, response_format={"type": "json_object"})
    sampling = frontend.prompts[-1].sampling
    assert sampling.json_schema is not None and sampling.constraint_after == expected
    ask(ai, chat_template_kwargs={"suffix": suffix}, response_format={"type": "json_object"}, constraint_after="!")
    assert frontend.prompts[-1].sampling.constraint_after == "!"


def test_reasoning_stays_in_the_content_if_asked_for(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = SCRIPT
    message = ask(ai, separate_reasoning=False).choices[0].message
    assert message.content == SCRIPT and message.reasoning_content is None
    assert "".join(delta.get("content", "") for delta in streamed(ai, separate_reasoning=False)) == SCRIPT


def test_reasoning_comes_at_once_if_asked_for(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = SCRIPT
    deltas = streamed(ai, stream_reasoning=False)
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == [THOUGHT]
    frontend.script = "<think>cut sh"
    deltas = streamed(ai, stream_reasoning=False)
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["cut sh"]


def test_the_template_is_told_whether_to_think(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    ask(ai, chat_template_kwargs={"enable_thinking": False}, reasoning_effort="low")
    assert frontend.tokenizer is not None
    given = frontend.tokenizer.rendered[-1]
    assert given["enable_thinking"] is False and given["reasoning_effort"] == "low"


def test_a_call_that_is_thought_about_is_not_made(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    frontend.script = f"<think>{call}?</think>{call}"
    message = ask(ai, tools=[TOOL]).choices[0].message
    assert message.reasoning_content == f"{call}?" and len(message.tool_calls) == 1 and message.content is None


def test_a_forced_call_waits_for_the_end_of_thinking(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    kwargs = {"suffix": "<|im_start|>assistant\n<think>\n"}
    ask(ai, tools=[TOOL], tool_choice="required", chat_template_kwargs=kwargs)
    sampling = frontend.prompts[-1].sampling
    assert sampling.json_schema is not None and sampling.constraint_after == "</think>"
    frontend.script = 'Hm.</think>[{"name": "now", "arguments": {"a": 1}}]'
    message = ask(ai, tools=[TOOL], tool_choice="required", chat_template_kwargs=kwargs).choices[0].message
    assert message.reasoning_content == "Hm." and message.tool_calls[0].function.arguments == '{"a": 1}'
    ask(ai, tools=[TOOL], tool_choice="required")
    assert frontend.prompts[-1].sampling.constraint_after == ()


def test_a_tokenizer_that_describes_its_answers(start: Start) -> None:
    frontend = ScriptedFrontend()
    assert frontend.tokenizer is not None
    frontend.tokenizer.response_template = {
        "start_anchor": "<a>",
        "fields": {
            "thinking": {"open": "<t>", "close": "</t>"},
            "tool_calls": {
                "open_pattern": r"<call:(?P<name>\w+)>",
                "close": "</call>",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            },
        },
    }
    frontend.script = '<t>hm</t>Well<call:now>{"a": 1}</call>'
    with start(frontend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as ai:
        message = ask(ai, tools=[TOOL]).choices[0].message
        assert (message.reasoning_content, message.content) == ("hm", "Well")
        assert message.tool_calls[0].function.arguments == '{"a": 1}'


THINKING = "<think>\nhé</think>"
COUNTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("", THINKING + "Yes", {}, len(THINKING.encode())),
    ("", THINKING + "Yes", {"separate_reasoning": False}, len(THINKING.encode())),
    ("<|im_start|>assistant\n<think>\n", "hm</think>Yes", {}, len("hm</think>")),
    ("", "Yes", {}, 0),
    ("", "<think>and on and on", {"max_tokens": 12}, 12),
    ("", "<think>a</think>b", {"n": 2}, 2 * len("<think>a</think>")),
    ("", "<think>" + "x" * 9000 + "</think>b", {"max_completion_tokens": 9100}, 9000 + len("<think></think>")),
]


@pytest.mark.parametrize(("suffix", "script", "options", "count"), COUNTS, ids=lambda value: repr(value)[:40])
def test_usage_counts_the_tokens_of_reasoning(
    start: Start, suffix: str, script: str, options: dict[str, Any], count: int
) -> None:
    frontend = ScriptedFrontend(tool_call_parser="hermes", reasoning_parser="qwen3")
    frontend.script, frontend.context_tokens = script, 16384
    asked = {"chat_template_kwargs": {"suffix": suffix}} | options
    with start(frontend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as ai:
        assert ask(ai, **asked).usage.completion_tokens_details.reasoning_tokens == count
        chunks = list(ask(ai, stream=True, stream_options={"include_usage": True}, **asked))
        assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == count
        if len(script) < 100:
            every = {"include_usage": True, "continuous_usage_stats": True}
            counts = [
                c.usage.completion_tokens_details.reasoning_tokens
                for c in ask(ai, stream=True, stream_options=every, **asked)
            ]
            assert counts == sorted(counts) and counts[-1] == count
