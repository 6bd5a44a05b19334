"""The main job on real input: `sgcore serve` on SmolLM2, driven by the real `openai` client."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.integration.serving import MODEL, Server, needs_model

pytestmark = [needs_model, pytest.mark.timeout(600)]


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="smol", messages=messages, temperature=0, **options)


def test_a_chat_answers(server: Server) -> None:
    reply = ask(server.client(), "What is the capital of France?", max_tokens=20)
    assert "Paris" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.prompt_tokens_details.cached_tokens >= 0


def test_a_stream_says_the_same_and_reports_usage(server: Server) -> None:
    client = server.client()
    whole = ask(client, "Name three colors.", max_tokens=24)
    chunks = list(ask(client, "Name three colors.", max_tokens=24, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0


def test_the_engine_in_process_gives_the_same_text(server: Server) -> None:
    from sgcore import Engine

    body = {"text": "The three primary colors are", "sampling_params": {"temperature": 0, "max_new_tokens": 16}}
    over_http = httpx2.post(f"{server.url}/generate", json=body, timeout=300).json()
    preferred = json.dumps(body["sampling_params"])
    with Engine(model_path=str(MODEL), max_total_tokens=4096, preferred_sampling_params=preferred) as engine:
        here = engine.generate(body["text"])
    assert here["output_ids"] == over_http["output_ids"] and here["text"] == over_http["text"]


def test_samples_and_logprobs(server: Server) -> None:
    client = server.client()
    messages: Any = [{"role": "user", "content": "Say a word."}]
    options: Any = {"model": "smol", "messages": messages, "max_tokens": 6, "seed": 5, "temperature": 1.0}
    reply = client.chat.completions.create(**options, n=3, logprobs=True, top_logprobs=2)
    again = client.chat.completions.create(**options, n=3)
    texts = [choice.message.content for choice in reply.choices]
    assert len(set(texts)) > 1 and texts == [choice.message.content for choice in again.choices]
    entry = reply.choices[0].logprobs.content[0]
    assert len(entry.top_logprobs) == 2 and entry.logprob <= entry.top_logprobs[0].logprob <= 0


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "'
"""What the model is made to go on from: it is too small to call tools by itself."""


def test_tools_are_answered_in_openais_shape(server: Server) -> None:
    client = server.client()
    reply = ask(client, "What is the weather in Paris?", tools=[WEATHER], max_tokens=24)
    choice = reply.choices[0]
    assert choice.message.content or choice.message.tool_calls
    assert choice.finish_reason in ("stop", "length", "tool_calls")
    chunks = list(ask(client, "What is the weather in Paris?", tools=[WEATHER], max_tokens=24, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == (choice.message.content or "")


def test_a_call_that_the_model_goes_on_with(server: Server) -> None:
    messages: Any = [{"role": "user", "content": "Weather in Paris?"}, {"role": "assistant", "content": CALL}]
    options: Any = {"model": "smol", "messages": messages, "tools": [WEATHER], "max_tokens": 16, "temperature": 0}
    extra = {"continue_final_message": True}
    reply = server.client().chat.completions.create(**options, extra_body=extra).choices[0].message
    chunks = server.client().chat.completions.create(**options, extra_body=extra, stream=True)
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    (made,) = reply.tool_calls
    assert made.function.name == calls[0].function.name == "get_weather"
    assert "".join(call.function.arguments for call in calls) == made.function.arguments


def test_forced_calls_keep_to_schema_and_grammar_and_are_never_content(server: Server) -> None:
    client = server.client()
    grammar = {"syntax": "regex", "definition": "[a-z]{3,5}[0-9]"}
    word: Any = {"type": "custom", "custom": {"name": "word", "format": {"type": "grammar", "grammar": grammar}}}
    options: dict[str, Any] = {"tool_choice": "required"}
    (made,) = ask(client, "Say a word", tools=[word], max_tokens=64, **options).choices[0].message.tool_calls
    assert re.fullmatch("[a-z]{3,5}[0-9]", made.custom.input)
    for limit in range(1, 24, 3):
        choice = ask(client, "What is the weather in Paris?", tools=[WEATHER], max_tokens=limit, **options).choices[0]
        assert not choice.message.content


def test_errors_are_openais(server: Server) -> None:
    client = server.client()
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="longer than the model's context length"):
        client.completions.create(model="smol", prompt="word " * 20000)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="smol", prompt="hi", temperature=-1)


def test_a_cancelled_stream_ends_its_request(server: Server) -> None:
    stream = ask(server.client(), "Tell a very long story.", max_tokens=2000, stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 20
    while server.running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.running() == 0


def test_64_clients_at_once(server: Server) -> None:
    client = server.client()

    def one(number: int) -> Any:
        return ask(client, f"What is {number} plus one?", max_tokens=8, stream=number % 2 == 0)

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(lambda n: list(one(n)) if n % 2 == 0 else one(n), range(64)))
    for number, reply in enumerate(replies):
        ended = reply[-1].choices[0].finish_reason if number % 2 == 0 else reply.choices[0].finish_reason
        assert ended in ("stop", "length")


def test_kill_of_the_core_under_load(tmp_path: Path) -> None:
    server = Server(tmp_path / "log").wait_ready()
    client = server.client()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask, client, "Count to a thousand.", max_tokens=1500) for _ in range(8)]
        while server.running() < 8:
            time.sleep(0.1)
        os.kill(server.core.pid, signal.SIGKILL)
        for future in waiting:
            with pytest.raises(openai.APIStatusError, match="core"):
                future.result(timeout=60)
    assert server.process.wait(timeout=60) == 1
    assert "SIGKILL" in server.log.read_text()
