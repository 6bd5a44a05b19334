"""Custom tools, some of the tools, the older `functions`, and forced calls of models whose format isn't known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from sgcore.parsing.inputs import InputText
from tests.server.conftest import Start
from tests.server.fake import ScriptedFrontend
from tests.server.test_tools import HELLO, SCHEMA, call, tool

TEXT = 'print("é\\n")\n# 🦙 \\u0041 \x01'
ESCAPED = json.dumps({"input": TEXT})
CODE: Any = {"type": "custom", "custom": {"name": "run", "description": "runs Python"}}
WORD: Any = {
    "type": "custom",
    "custom": {
        "name": "word",
        "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]+|é"}},
    },
}
FUNCTION = {"name": "now", "description": "d", "parameters": SCHEMA}


@pytest.fixture(scope="module")
def frontend() -> ScriptedFrontend:
    return ScriptedFrontend(tool_call_parser="hermes")


@pytest.fixture(scope="module")
def ai(start: Start, frontend: ScriptedFrontend) -> Iterator[openai.OpenAI]:
    with start(frontend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def plain() -> ScriptedFrontend:
    return ScriptedFrontend()


@pytest.fixture(scope="module")
def plain_ai(start: Start, plain: ScriptedFrontend) -> Iterator[openai.OpenAI]:
    """A server that knows no format."""
    with start(plain) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def ask(ai: openai.OpenAI, **options: Any) -> Any:
    return ai.chat.completions.create(**{"model": "fake", "messages": HELLO} | options)


def deltas(ai: openai.OpenAI, **options: Any) -> list[Any]:
    return [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in ask(ai, stream=True, **options)]


# -- custom tools --------------------------------------------------------------------------------------------------


def test_a_custom_tool_is_called_with_text(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = call("run", ESCAPED) + call("now", "{}")
    choice = ask(ai, tools=[CODE, tool("now")]).choices[0]
    custom, function = choice.message.tool_calls
    assert (custom.type, custom.custom.name, custom.custom.input) == ("custom", "run", TEXT)
    assert (function.type, function.function.name, function.function.arguments) == ("function", "now", "{}")
    assert "function" not in custom.model_dump(exclude_unset=True) and choice.finish_reason == "tool_calls"


def test_the_text_is_streamed_as_it_comes(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = call("run", ESCAPED)
    first, *rest = [delta["tool_calls"][0] for delta in deltas(ai, tools=[CODE]) if "tool_calls" in delta]
    assert first.pop("id").startswith("call_")
    assert first == {"index": 0, "type": "custom", "custom": {"name": "run", "input": ""}}
    assert all(set(part) == {"index", "custom"} and set(part["custom"]) == {"input"} for part in rest)
    assert "".join(part["custom"]["input"] for part in rest) == TEXT and len(rest) > 10


def test_a_model_and_its_template_know_a_function_with_one_text(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = "ok"
    ask(ai, tools=[CODE])
    assert frontend.tokenizer is not None
    (shown,) = frontend.tokenizer.rendered[-1]["tools"]
    assert shown["type"] == "function" and shown["function"] == {
        "name": "run",
        "description": "runs Python",
        "parameters": {
            "type": "object",
            "properties": {"input": {"type": "string"}},
            "required": ["input"],
            "additionalProperties": False,
        },
    }
    assert frontend.prompts[-1].sampling.constraint is None


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "custom", "custom": {"name": "word"}}], ids=str)
def test_a_grammar_binds_the_text(ai: openai.OpenAI, frontend: ScriptedFrontend, choice: Any) -> None:
    frontend.script = "ok"
    ask(ai, tools=[WORD], tool_choice=choice)
    sampling = frontend.prompts[-1].sampling
    made = json.loads(sampling.structural_tag or sampling.json_schema or "")
    assert '"pattern": "^(?:[a-z]+|é)$"' in json.dumps(made, ensure_ascii=False)
    assert ("structures" in made) == (choice == "auto")


def test_a_grammar_is_no_wish(ai: openai.OpenAI, start: Start) -> None:
    with pytest.raises(openai.BadRequestError, match="exclude each other"):
        ask(ai, tools=[WORD], response_format={"type": "json_object"})
    unbound = ScriptedFrontend(tool_call_parser="qwen3_coder")
    with start(unbound) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as other:
        with pytest.raises(openai.BadRequestError, match="tool_choice: required") as caught:
            ask(other, tools=[WORD])
        assert caught.value.param == "tools[0].custom.format"
        unbound.script = '[{"name": "word", "arguments": {"input": "abc"}}]'
        assert ask(other, tools=[WORD], tool_choice="required").choices[0].message.tool_calls[0].custom.input == "abc"


TEXTS = [
    ('{"input": "a b"}', "a b"),
    ('\n{ "input" :\t"a"} ', "a"),
    (r'{"input": "\ud83e\udd99\u00e9\\\"\/"}', '🦙é\\"/'),
    (r'{"input": "a\ud83eb"}', "a"),
    (r'{"input": "a\udd99b"}', "a\ufffdb"),
    ('{"input": "cut', "cut"),
    (r'{"input": "cut\u00', "cut"),
    ('{"input": "', ""),
    ('{"inp', '{"inp'),
    ("{}", ""),
    ("", ""),
    ('{"code": "a"}', '{"code": "a"}'),
    ("print(1)", "print(1)"),
]


@pytest.mark.parametrize(("arguments", "text"), TEXTS, ids=lambda value: repr(value)[:40])
def test_text_is_what_the_arguments_say_in_any_pieces(arguments: str, text: str) -> None:
    for size in range(1, len(arguments) + 2):
        reader = InputText("input")
        parts = [reader.add(arguments[start : start + size]) for start in range(0, len(arguments), size)]
        assert "".join([*parts, reader.finish()]) == text


# -- some of the tools ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_some_tools_are_allowed(ai: openai.OpenAI, frontend: ScriptedFrontend, mode: str) -> None:
    allowed = [{"type": "function", "function": {"name": "now"}}, {"type": "custom", "custom": {"name": "run"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
    frontend.script = call("rm", "{}") + call("now", "{}")
    message = ask(ai, tools=[tool("rm"), CODE, tool("now")], tool_choice=choice).choices[0].message
    assert [made.function.name for made in message.tool_calls] == ["now"]
    schema = frontend.prompts[-1].sampling.json_schema
    assert (schema is not None) == (mode == "required")
    if schema:
        names = [made["properties"]["name"]["const"] for made in json.loads(schema)["items"]["anyOf"]]
        assert names == ["run", "now"]


# -- functions, as before tools ------------------------------------------------------------------------------------


def test_functions_get_a_function_call(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = f"I look.\n{call('now', json.dumps({'a': 1}))}\n{call('now', '{}')}"
    choice = ask(ai, functions=[FUNCTION]).choices[0]
    assert (choice.message.content, choice.message.tool_calls) == ("I look.", None)
    assert (choice.message.function_call.name, choice.message.function_call.arguments) == ("now", '{"a": 1}')
    assert choice.finish_reason == "function_call"
    assert frontend.tokenizer is not None
    assert frontend.tokenizer.rendered[-1]["tools"] == [{"type": "function", "function": FUNCTION}]
    parts = [delta["function_call"] for delta in deltas(ai, functions=[FUNCTION]) if "function_call" in delta]
    assert parts[0] == {"name": "now", "arguments": ""} and "".join(part["arguments"] for part in parts) == '{"a": 1}'
    assert list(ask(ai, functions=[FUNCTION], stream=True))[-1].choices[0].finish_reason == "function_call"


def test_a_function_is_forced_and_none_is(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = '[{"name": "now", "arguments": {}}]'
    message = ask(ai, functions=[FUNCTION], function_call={"name": "now"}).choices[0].message
    assert message.function_call.name == "now"
    assert json.loads(frontend.prompts[-1].sampling.json_schema or "")["maxItems"] == 1
    for choice in ("none", "auto"):
        assert ask(ai, functions=[FUNCTION], function_call=choice).choices[0].message.content == frontend.script


BAD: list[tuple[dict[str, Any], str]] = [
    ({"functions": [FUNCTION], "tools": [tool("a")]}, "functions"),
    ({"functions": [FUNCTION, FUNCTION]}, "functions[1].name"),
    ({"functions": [{"name": "a b"}]}, "functions[0].name"),
    ({"functions": [FUNCTION], "function_call": "required"}, "function_call"),
    ({"functions": [FUNCTION], "function_call": {"name": "rm"}}, "function_call"),
    ({"function_call": {"name": "rm"}}, "function_call"),
    ({"tools": [tool("a")], "function_call": "auto"}, "function_call"),
    ({"tools": [{"type": "custom"}]}, "tools[0].custom"),
    ({"tools": [{"type": "custom", "custom": {"name": "a b"}}]}, "tools[0].custom.name"),
    ({"tools": [{"type": "custom", "custom": {"name": "a", "format": {"type": "xml"}}}]}, "tools[0].custom.format"),
    (
        {"tools": [{"type": "custom", "custom": {"name": "a", "format": {
            "type": "grammar", "grammar": {"syntax": "lark", "definition": "start: a"}}}}]},
        "tools[0].custom.format.grammar.syntax",
    ),
    ({"tools": [tool("a")], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
    (
        {"tools": [tool("a")], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": []}}},
        "tool_choice.allowed_tools",
    ),
    (
        {"tools": [tool("a")], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "none", "tools": [{"function": {"name": "a"}}]}}},
        "tool_choice.allowed_tools.mode",
    ),
    (
        {"tools": [tool("a")], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": [{"type": "mcp"}]}}},
        "tool_choice.allowed_tools.tools[0]",
    ),
    ({"tools": [tool("a")], "tool_choice": {"type": "custom", "custom": {"name": "b"}}}, "tool_choice"),
    ({"tools": [tool("a")], "tool_choice": {"type": "custom"}}, "tool_choice"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "param"), BAD, ids=[f"{place} {param}" for place, (_, param) in enumerate(BAD)])
def test_bad_kinds_name_the_field(ai: openai.OpenAI, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(ai, **options)
    assert caught.value.param == param and param.split("[")[0].split(".")[0] in caught.value.message


# -- a model whose format nobody knows -----------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "now"}}], ids=str)
def test_forced_calls_need_no_format(plain_ai: openai.OpenAI, plain: ScriptedFrontend, choice: Any) -> None:
    plain.script = '[{"name": "now", "arguments": {"city": "Paris"}}]'
    answer = ask(plain_ai, tools=[tool("now"), tool("rm")], tool_choice=choice).choices[0]
    (made,) = answer.message.tool_calls
    assert (made.function.name, made.function.arguments) == ("now", '{"city": "Paris"}')
    assert (answer.message.content, answer.finish_reason) == (None, "tool_calls")
    assert plain.prompts[-1].sampling.json_schema is not None
    streamed = deltas(plain_ai, tools=[tool("now")], tool_choice=choice)
    assert "".join(delta.get("content") or "" for delta in streamed) == ""
    assert sum("tool_calls" in delta for delta in streamed) > 2


def test_calls_that_nobody_forces_need_one(plain_ai: openai.OpenAI) -> None:
    for options, param in (({"tools": [CODE]}, "tools"), ({"functions": [FUNCTION]}, "functions")):
        with pytest.raises(openai.BadRequestError, match="--tool-call-parser") as caught:
            ask(plain_ai, **options)
        assert caught.value.param == param
