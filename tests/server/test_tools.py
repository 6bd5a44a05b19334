"""Tool calls on the chat route, asked by OpenAI's own client; what the model says is scripted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest

from tests.server.conftest import Start
from tests.server.fake import ScriptedFrontend
from tests.server.test_openai import wait_until

HELLO: Any = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class get_weather(pydantic.BaseModel):
    """The weather in a city."""

    city: str


def tool(name: str, **more: Any) -> Any:
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": SCHEMA, **more}}


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


TOOLS: Any = [tool("get_weather"), tool("now")]
PARIS = '{"city": "Paris \\"世界\\" </tool_call>"}'
TWO = f"I look.\n{call('get_weather', PARIS)}\n{call('now', '{}')}"


@pytest.fixture(scope="module")
def frontend() -> ScriptedFrontend:
    return ScriptedFrontend(tool_call_parser="hermes")


@pytest.fixture(scope="module")
def ai(start: Start, frontend: ScriptedFrontend) -> Iterator[openai.OpenAI]:
    with start(frontend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def ask(ai: openai.OpenAI, **options: Any) -> Any:
    return ai.chat.completions.create(**{"model": "fake", "messages": HELLO, "tools": TOOLS} | options)


def test_a_message_with_calls(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = TWO
    choice = ask(ai).choices[0]
    assert choice.message.content == "I look."
    assert [(c.type, c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [
        ("function", "get_weather", PARIS),
        ("function", "now", "{}"),
    ]
    ids = [c.id for c in choice.message.tool_calls]
    assert len(set(ids)) == 2 and all(call_id.startswith("call_") for call_id in ids)
    assert choice.finish_reason == "tool_calls"


def test_content_is_null_where_there_are_only_calls(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = call("now", "{}")
    assert ask(ai).choices[0].message.content is None


def test_deltas_are_openais(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = TWO
    parts = [chunk.choices[0] for chunk in ask(ai, stream=True)]
    deltas = [part.delta.model_dump(exclude_unset=True) for part in parts]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content") or "" for delta in deltas) == "I look."
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    firsts = [c for c in calls if "id" in c]
    assert [{k: v for k, v in c.items() if k != "id"} for c in firsts] == [
        {"index": 0, "type": "function", "function": {"name": "get_weather", "arguments": ""}},
        {"index": 1, "type": "function", "function": {"name": "now", "arguments": ""}},
    ]
    assert calls[0] == firsts[0] and len({c["id"] for c in firsts}) == 2
    rest = [c for c in calls if "id" not in c]
    assert all(set(c) == {"index", "function"} and set(c["function"]) == {"arguments"} for c in rest)
    fragments = {index: [c["function"]["arguments"] for c in rest if c["index"] == index] for index in (0, 1)}
    assert {index: "".join(parts) for index, parts in fragments.items()} == {0: PARIS, 1: "{}"}
    assert len(fragments[0]) > 10, "arguments are streamed as they come"
    assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + ["tool_calls"]


def test_the_clients_stream_helper_parses_the_call(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = call("get_weather", '{"city": "Paris"}')
    asked: Any = {"model": "fake", "messages": HELLO, "tools": [openai.pydantic_function_tool(get_weather)]}
    with ai.chat.completions.stream(**asked) as stream:
        events = [event for event in stream if event.type.startswith("tool_calls.")]
        final = stream.get_final_completion()
    assert events[-1].type == "tool_calls.function.arguments.done"
    assert events[-1].parsed_arguments == get_weather(city="Paris")
    (made,) = final.choices[0].message.tool_calls or ()
    assert made.function.parsed_arguments == get_weather(city="Paris")
    assert ai.chat.completions.parse(**asked).choices[0].message.tool_calls[0].function.parsed_arguments == get_weather(
        city="Paris"
    )


def test_calls_of_unknown_functions_and_broken_ones_are_content(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    for script in (call("rm", "{}"), "<tool_call>{]</tool_call>", '<tool_call>{"name": "now", "argum'):
        frontend.script = script
        choice = ask(ai).choices[0]
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(ai, stream=True))
        assert (choice.message.content, streamed, choice.message.tool_calls) == (script, script, None)
        assert choice.finish_reason == "stop"


def test_a_call_that_the_limit_cuts_short_says_so(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = call("get_weather", PARIS)
    choice = ask(ai, max_tokens=70).choices[0]
    assert choice.finish_reason == "length"
    assert PARIS.startswith(choice.message.tool_calls[0].function.arguments)


@pytest.mark.parametrize("is_forced", [False, True])
def test_an_answer_that_is_cut_shows_nothing_of_a_call(
    ai: openai.OpenAI, frontend: ScriptedFrontend, is_forced: bool
) -> None:
    forced = f'[{{"name": "now", "arguments": {{}}}}, {{"name": "get_weather", "arguments": {PARIS}}}]'
    frontend.script = forced if is_forced else TWO
    choice = "required" if is_forced else "auto"
    for limit in (*range(1, 24), *range(24, len(frontend.script.encode()), 5)):
        whole = ask(ai, tool_choice=choice, max_tokens=limit).choices[0]
        chunks = [chunk.choices[0] for chunk in ask(ai, tool_choice=choice, max_tokens=limit, stream=True)]
        streamed = "".join(chunk.delta.content or "" for chunk in chunks)
        assert (whole.message.content or "") == streamed and whole.finish_reason == chunks[-1].finish_reason == "length"
        assert streamed == "" if is_forced else "I look.".startswith(streamed.rstrip())


def test_a_stop_string_cuts_too(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = TWO
    message = ask(ai, stop='"name"').choices[0].message
    assert (message.content.rstrip(), message.tool_calls) == ("I look.", None)


def test_template_and_prompt_get_tools_and_earlier_calls(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = "ok"
    made = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": '{"a": [1]}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [made], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "12:00"}]},
    ]
    ask(ai, messages=messages, tools=[tool("now", strict=True)], extra_body={"documents": [{"text": "d"}]})
    assert frontend.tokenizer is not None
    given = frontend.tokenizer.rendered[-1]
    assert given["tools"] == [tool("now")] and given["documents"] == [{"text": "d"}]
    assistant, answer = given["messages"][1:]
    assert assistant["tool_calls"] == [made | {"function": {"name": "now", "arguments": {"a": [1]}}}]
    assert assistant["content"] == "" and assistant["reasoning_content"] == "hm"
    assert answer == {"role": "tool", "tool_call_id": "call_1", "content": "12:00"}


def test_without_tools_or_with_none_nothing_is_parsed(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = call("now", "{}")
    assert frontend.tokenizer is not None
    for options in ({"tools": openai.omit}, {"tool_choice": "none"}):
        assert ask(ai, **options).choices[0].message.content == frontend.script
        assert "tools" not in frontend.tokenizer.rendered[-1]


def test_choice_and_strictness_constrain_the_engine(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    def asked(**options: Any) -> tuple[Any, Any]:
        ask(ai, **options)
        sampling = frontend.prompts[-1].sampling
        return tuple(text and json.loads(text) for text in (sampling.json_schema, sampling.structural_tag))

    frontend.script = "ok"
    assert asked() == (None, None)
    forced, tag = asked(tool_choice="required")
    assert tag is None and forced["minItems"] == 1 and "maxItems" not in forced
    assert [call["properties"]["name"]["const"] for call in forced["items"]["anyOf"]] == ["get_weather", "now"]
    forced, _ = asked(tool_choice={"type": "function", "function": {"name": "now"}})
    assert forced["maxItems"] == 1 and len(forced["items"]["anyOf"]) == 1
    forced, tag = asked(tools=[tool("get_weather", strict=True), tool("now")])
    assert forced is None and [part["schema"] for part in tag["structures"]] == [SCHEMA, {"type": "object"}]
    frontend.plan = dataclasses.replace(frontend.plan, grammar=None)
    assert asked(tools=[tool("get_weather", strict=True)]) == (None, None)


def test_forced_calls_are_read_as_the_schema_has_them(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = f'[{{"name": "get_weather", "arguments": {PARIS}}}, {{"name": "now", "arguments": {{}}}}]'
    choice = ask(ai, tool_choice="required").choices[0]
    assert [(c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [
        ("get_weather", PARIS),
        ("now", "{}"),
    ]
    assert choice.message.content is None and choice.finish_reason == "tool_calls"
    assert ask(ai).choices[0].message.content == frontend.script, "nobody forced it"
    frontend.script = call("now", "{}")
    assert ask(ai, tool_choice="required").choices[0].message.tool_calls[0].function.name == "now"


def test_without_parallel_calls_there_is_one(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = TWO
    assert len(ask(ai, parallel_tool_calls=False).choices[0].message.tool_calls) == 1
    chunks = ask(ai, parallel_tool_calls=False, stream=True)
    calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    assert {c.index for c in calls} == {0}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [tool("a b")]}, "tools[0].function.name", "letters"),
    ({"tools": [tool("a"), tool("a")]}, "tools[1].function.name", "earlier"),
    ({"tools": [{"type": "web_search", "function": {"name": "a"}}]}, "tools[0].type", "'function'"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing"),
    ({"tools": [tool("a", parameters={"type": "array"})]}, "tools[0].function.parameters", "object"),
    ({"tools": [tool("a", parameters="x")]}, "tools", "$.tools[0].function.parameters"),
    ({"tool_choice": "any"}, "tool_choice", "required"),
    ({"tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice", "not in tools"),
    ({"tools": openai.omit, "tool_choice": "required"}, "tool_choice", "needs tools"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "messages", "tool_calls[0].function"),
]


@pytest.mark.parametrize(("options", "param", "says"), BAD, ids=[f"{param} {says}" for _, param, says in BAD])
def test_bad_tools_name_the_field(ai: openai.OpenAI, options: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(ai, **options)
    assert caught.value.param == param and says in caught.value.message


def test_a_server_without_a_format_refuses_tools(start: Start) -> None:
    frontend = ScriptedFrontend()
    frontend.script = "plain"
    with start(frontend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as ai:
        with pytest.raises(openai.BadRequestError, match="--tool-call-parser") as caught:
            ask(ai)
        assert caught.value.param == "tools"
        assert ask(ai, tool_choice="none").choices[0].message.content == "plain"


def test_samples_logprobs_and_stops_still_work(ai: openai.OpenAI, frontend: ScriptedFrontend) -> None:
    frontend.script = TWO
    tokens = len(TWO.encode())
    reply = ask(ai, n=2, logprobs=True)
    assert [len(choice.message.tool_calls) for choice in reply.choices] == [2, 2]
    assert [len(choice.logprobs.content) for choice in reply.choices] == [tokens, tokens]
    counts, names = [0, 0], [[], []]
    for chunk in ask(ai, n=2, logprobs=True, stream=True):
        (part,) = chunk.choices
        counts[part.index] += len(part.logprobs.content) if part.logprobs else 0
        names[part.index] += [c.function.name for c in part.delta.tool_calls or () if c.id]
    assert counts == [tokens, tokens] and names == [["get_weather", "now"]] * 2
    stopped = ask(ai, stop="Paris").choices[0]
    assert stopped.message.tool_calls[0].function.arguments == '{"city": "'
    assert stopped.model_dump()["matched_stop"] == "Paris"


def test_a_client_that_leaves_in_mid_call_ends_it(start: Start) -> None:
    frontend = ScriptedFrontend(step_s=0.005, tool_call_parser="hermes")
    frontend.script = call("now", '{"a": "' + "x" * 3000 + '"}')
    with start(frontend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as ai:
        stream = ask(ai, stream=True)
        for chunk in stream:
            if chunk.choices[0].delta.tool_calls:
                break
        stream.close()
        wait_until(lambda: not frontend.running)
        assert len(frontend.aborted) == 1


def test_delimiters_that_are_special_tokens_are_kept(start: Start) -> None:
    frontend = ScriptedFrontend(tool_call_parser="mistral")
    assert frontend.tokenizer is not None
    frontend.tokenizer.special_texts = lambda: frozenset({"[TOOL_CALLS]"})  # type: ignore[method-assign]
    frontend.script = '[TOOL_CALLS] [{"name": "now", "arguments": {}}]'
    with start(frontend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as ai:
        assert ask(ai).choices[0].message.tool_calls[0].function.name == "now"
        assert not frontend.prompts[-1].sampling.skip_special_tokens
        ask(ai, tool_choice="none")
        assert frontend.prompts[-1].sampling.skip_special_tokens
