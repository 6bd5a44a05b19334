"""OpenAI's routes, asked by OpenAI's own client where it can."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from starlette.testclient import TestClient

from tests.server.conftest import Start
from tests.server.fake import FakeFrontend

HELLO: Any = [{"role": "user", "content": "Grüße, 世界!"}]
RENDERED = "user: Grüße, 世界!\nassistant: "


@pytest.fixture(scope="module")
def frontend() -> FakeFrontend:
    return FakeFrontend()


@pytest.fixture(scope="module")
def url(start: Start, frontend: FakeFrontend) -> Iterator[str]:
    with start(frontend) as url:
        yield url


@pytest.fixture(scope="module")
def ai(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_chat_answers_with_text_and_usage(ai: openai.OpenAI) -> None:
    reply = ai.chat.completions.create(model="fake", messages=HELLO, max_tokens=7)
    assert reply.object == "chat.completion"
    assert reply.id.startswith("chatcmpl-")
    assert reply.choices[0].message.content == RENDERED[:7].encode()[:7].decode("utf-8", "ignore")
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None and reply.usage.prompt_tokens == len(RENDERED.encode())
    assert reply.usage.completion_tokens == 7
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 7
    assert reply.usage.prompt_tokens_details is not None and reply.usage.prompt_tokens_details.cached_tokens == 1


@pytest.mark.parametrize("limit", [1, 2, 7, 8, 9, 10, 13, 40, 100])
@pytest.mark.parametrize("stop", [None, "世", ["!\nass", "zzz"]])
def test_streamed_deltas_join_to_the_whole(ai: openai.OpenAI, limit: int, stop: Any) -> None:
    asked: dict[str, Any] = {"model": "fake", "messages": HELLO, "max_tokens": limit, "stop": stop}
    whole = ai.chat.completions.create(**asked)
    parts = list(ai.chat.completions.create(**asked, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    assert parts[0].choices[0].delta.role == "assistant"
    assert [part.choices[0].finish_reason for part in parts][-1] == whole.choices[0].finish_reason
    assert all(part.choices[0].finish_reason is None for part in parts[:-1])
    assert all(part.choices[0].delta.role is None for part in parts[1:])


def test_completion_stream_joins_to_the_whole(ai: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "fake", "prompt": ["añb", "世界"], "max_tokens": 9, "n": 2}
    whole = ai.completions.create(**asked)
    texts = {choice.index: "" for choice in whole.choices}
    for part in ai.completions.create(**asked, stream=True):
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert sorted(texts) == [0, 1, 2, 3]


def test_usage_chunk_comes_last_with_no_choices(ai: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    parts = list(
        ai.chat.completions.create(model="fake", messages=HELLO, max_tokens=5, stream=True, stream_options=options)
    )
    assert parts[-1].choices == []
    assert parts[-1].usage is not None and parts[-1].usage.completion_tokens == 5
    assert all(part.usage is None for part in parts[:-1])


def test_continuous_usage_grows(ai: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    parts = ai.completions.create(model="fake", prompt="abc", max_tokens=5, stream=True, stream_options=options)
    counts = [part.usage.completion_tokens for part in parts if part.usage]
    assert counts == sorted(counts) and counts[-1] == 5 and len(counts) >= 5


def test_several_samples(ai: openai.OpenAI) -> None:
    reply = ai.chat.completions.create(model="fake", messages=HELLO, n=3, max_tokens=4)
    assert [choice.message.content for choice in reply.choices] == ["user", "ser:", "er: "]
    assert reply.usage is not None and reply.usage.completion_tokens == 12
    assert reply.usage.prompt_tokens == len(RENDERED.encode())


def test_chat_logprobs(ai: openai.OpenAI) -> None:
    asked: Any = {"model": "fake", "messages": HELLO, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    logprobs = ai.chat.completions.create(**asked).choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["u", "s", "e"]
    assert logprobs.content[0].bytes == [117]
    assert [top.token for top in logprobs.content[0].top_logprobs] == ["u", "v"]
    streamed: list[str] = []
    for part in ai.chat.completions.create(**asked, stream=True):
        if part.choices[0].logprobs and part.choices[0].logprobs.content:
            streamed += [entry.token for entry in part.choices[0].logprobs.content]
    assert streamed == ["u", "s", "e"]


def test_completion_logprobs_with_echo(ai: openai.OpenAI) -> None:
    asked: Any = {"model": "fake", "prompt": [97, 98], "max_tokens": 2, "logprobs": 1, "echo": True}
    choice = ai.completions.create(**asked).choices[0]
    assert choice.text == "abab"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a", "b", "a", "b"]
    assert choice.logprobs.token_logprobs == [None, -1.0, -0.5, -0.5]
    assert choice.logprobs.text_offset == [0, 1, 2, 3]
    parts = [part.choices[0] for part in ai.completions.create(**asked, stream=True)]
    assert "".join(part.text for part in parts) == "abab"
    offsets = [offset for part in parts if part.logprobs for offset in part.logprobs.text_offset or []]
    assert offsets == [0, 1, 2, 3]


def test_logprobs_of_half_a_character(ai: openai.OpenAI) -> None:
    asked: Any = {"model": "fake", "prompt": list("aé!".encode()), "max_tokens": 4, "logprobs": 1, "echo": True}
    choice = ai.completions.create(**asked).choices[0]
    assert choice.logprobs is not None and choice.text == "aé!aé!"
    assert choice.logprobs.text_offset == [0, 1, 1, 2, 3, 4, 4, 5]
    hello: Any = [{"role": "é", "content": ""}]
    chat = ai.chat.completions.create(model="fake", messages=hello, max_tokens=3, logprobs=True, top_logprobs=1)
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [entry.bytes for entry in logprobs.content] == [[0xC3], [0xA9], [ord(":")]]
    assert logprobs.content[0].top_logprobs[0].bytes == [0xC3]


def test_completions_default_to_sixteen_tokens_and_chat_fills_the_context(
    ai: openai.OpenAI, frontend: FakeFrontend
) -> None:
    reply = ai.completions.create(model="fake", prompt="a")
    assert reply.usage is not None and reply.usage.completion_tokens == 16
    long = ai.chat.completions.create(model="fake", messages=[{"role": "user", "content": "x" * 4000}])
    assert long.usage is not None and long.usage.total_tokens == frontend.context_tokens


def test_extra_keys_reach_the_engine(ai: openai.OpenAI, frontend: FakeFrontend) -> None:
    extra = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "min_tokens": 1,
        "ignore_eos": True,
        "stop_token_ids": [7],
        "skip_special_tokens": False,
        "rid": "mine",
        "priority": 0,
        "timeout": 2.5,
        "cache_salt": "tenant",
        "chat_template_kwargs": {"suffix": "?"},
    }
    ai.chat.completions.create(
        model="fake", messages=HELLO, max_completion_tokens=2, seed=3, logit_bias={"5": 1}, extra_body=extra
    )
    prompt = frontend.prompts[-1]
    sampling = prompt.sampling
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (5, 0.1, 1.1)
    assert (sampling.min_new_tokens, sampling.max_new_tokens, sampling.sampling_seed) == (1, 2, 3)
    assert sampling.ignore_eos and not sampling.skip_special_tokens
    assert sampling.stop_token_ids == (7,) and sampling.logit_bias == {5: 1.0}
    assert (prompt.rid, prompt.namespace, prompt.timeout_s) == ("mine", "tenant", 2.5)
    assert prompt.input_ids is not None and prompt.input_ids[-1] == ord("?")


def test_generation_config_gives_defaults(ai: openai.OpenAI, frontend: FakeFrontend) -> None:
    frontend.defaults = {"temperature": 0.6, "top_k": 20}
    try:
        ai.chat.completions.create(model="fake", messages=HELLO, max_tokens=1, temperature=0.2)
    finally:
        frontend.defaults = {}
    assert (frontend.prompts[-1].sampling.temperature, frontend.prompts[-1].sampling.top_k) == (0.2, 20)


def test_content_parts_join_and_the_last_message_continues(ai: openai.OpenAI, frontend: FakeFrontend) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    last: Any = [{"role": "assistant", "content": "so"}]
    extra = {"continue_final_message": True}
    ai.chat.completions.create(model="fake", messages=parts + last, max_tokens=1, extra_body=extra)
    assert bytes(frontend.prompts[-1].input_ids or []) == b"user: a\nb\nassistant: so"


@pytest.mark.parametrize("name", ["fake", "/models/fake", "default", ""])
def test_names_that_are_served(ai: openai.OpenAI, name: str) -> None:
    assert ai.chat.completions.create(model=name, messages=HELLO, max_tokens=1).model == "fake"


def test_another_model_is_not_found(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ai.chat.completions.create(model="gpt", messages=HELLO)
    assert caught.value.code == "model_not_found" and "'fake'" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        ai.models.retrieve("gpt")


def test_models(ai: openai.OpenAI) -> None:
    (card,) = ai.models.list().data
    assert card.id == "fake" and card.model_dump()["max_model_len"] == 4096
    assert ai.models.retrieve("fake").id == "fake"


def test_refusals_arrive_as_the_clients_own_errors(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature must be a number from 0") as caught:
        ai.chat.completions.create(model="fake", messages=HELLO, temperature=-1)
    assert caught.value.param == "temperature" and caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="maximum context length is 4096") as caught:
        ai.completions.create(model="fake", prompt="x" * 5000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="maximum context length is 4096"):
        ai.completions.create(model="fake", prompt="x" * 5000, stream=True)


CLIENTS = {
    "litellm": ("this model's maximum context length is", "is longer than the model's context length"),
    "langchain": ("context_length_exceeded",),
    "crewai": ("maximum context length",),
}
"""Texts by which clients' libraries know a prompt that is too long, in lower case."""


def test_clients_libraries_know_a_prompt_that_is_too_long(ai: openai.OpenAI) -> None:
    long: Any = [{"role": "user", "content": "x" * 5000}]
    for ask in (
        lambda: ai.completions.create(model="fake", prompt="x" * 5000),
        lambda: ai.chat.completions.create(model="fake", messages=long),
        lambda: ai.chat.completions.create(model="fake", messages=long, stream=True),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            ask()
        said = str(caught.value).lower()
        assert all(text in said for texts in CLIENTS.values() for text in texts), said
        assert not re.search(r"rate[\s_-]*limit|\b429\b", said), "a client takes it for another error, and tries again"


def test_a_full_queue_says_when_to_come_back(start: Start) -> None:
    with start(FakeFrontend(limit=0)) as url:
        reply = httpx2.post(f"{url}/v1/completions", json={"prompt": "a"})
        streamed = httpx2.post(f"{url}/v1/completions", json={"prompt": "a", "stream": True})
    assert reply.status_code == streamed.status_code == 429
    assert reply.headers["retry-after"] == "1"
    assert reply.json()["error"]["type"] == "rate_limit_error"


def wait_until(check: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize("n", [1, 2])
def test_a_client_that_leaves_a_stream_ends_it(start: Start, n: int) -> None:
    frontend = FakeFrontend(step_s=0.01)
    with start(frontend) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as ai:
        stream = ai.completions.create(model="fake", prompt="abc", max_tokens=4000, stream=True, n=n)
        next(iter(stream))
        assert len(frontend.running) == 1
        stream.close()
        wait_until(lambda: not frontend.running)
        assert len(frontend.aborted) == 1


def test_a_client_that_leaves_before_the_answer_ends_it(start: Start) -> None:
    frontend = FakeFrontend(step_s=0.01)
    with start(frontend) as url:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/v1/completions", json={"prompt": ["a", "b"], "max_tokens": 4000}, timeout=0.3)
        wait_until(lambda: len(frontend.aborted) == 2)
        assert not frontend.running


def test_the_engines_death_is_an_event_in_a_running_stream(start: Start) -> None:
    frontend = FakeFrontend(step_s=0.02)
    with start(frontend) as url:
        threading.Timer(0.2, lambda: setattr(frontend, "failure", "out of memory")).start()
        body = {"prompt": "a", "max_tokens": 4000, "stream": True}
        text = httpx2.post(f"{url}/v1/completions", json=body).text
        assert httpx2.get(f"{url}/health").status_code == 503
        refused = httpx2.post(f"{url}/v1/completions", json=body)
    last = json.loads(text.strip().rpartition("data: ")[2])
    assert last["error"]["message"] == "out of memory" and "[DONE]" not in text
    assert refused.status_code == 503 and "out of memory" in refused.json()["error"]["message"]


def test_an_aborted_request_says_so(start: Start) -> None:
    frontend = FakeFrontend(step_s=0.02)
    with start(frontend) as url:
        threading.Timer(0.2, lambda: httpx2.post(f"{url}/abort_request", json={"rid": "mi"})).start()
        body = {"prompt": "a", "max_tokens": 4000, "rid": "mine"}
        reply = httpx2.post(f"{url}/v1/completions", json=body)
    assert reply.json()["choices"][0]["finish_reason"] == "abort"


def test_the_request_id_comes_back(client: TestClient) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    assert client.post("/v1/completions", json=body, headers={"x-request-id": "r1"}).headers["x-request-id"] == "r1"
    assert len(client.post("/v1/completions", json=body).headers["x-request-id"]) == 32
