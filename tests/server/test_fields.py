"""No field is passed over in silence: each is read, listed as ignored, or refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params
from starlette.testclient import TestClient

from sgcore.engine.sampling import sampling_from
from sgcore.errors import RequestError
from sgcore.server import chat, completions, programs, tokens
from sgcore.server.fields import NEUTRAL, Ignored
from sgcore.server.protocol import ChatRequest, CompletionRequest
from sgcore.server.routes import ROUTES
from tests.server.fake import FakeFrontend

MESSAGES = [{"role": "user", "content": "a"}]
GOOD: dict[str, dict[str, Any]] = {
    "/generate": {"text": "a", "sampling_params": {"max_new_tokens": 1}},
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 1},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [97]},
    "/abort_request": {"rid": "x"},
    "/release_group": {"id": "x"},
}
GENERATING = ["/generate", "/v1/completions", "/v1/chat/completions"]
KINDS = {path: entry.body for entry in ROUTES for path in entry.paths if path in GOOD}
IGNORED = Ignored.__struct_fields__
OF_TOOLS = {"parallel_tool_calls"}
"""Read where there are tools: tests/server/test_tools.py."""
MODULES: dict[str, tuple[Any, str]] = {
    "/generate": (programs, "DECODER"),
    "/v1/completions": (completions, "DECODER"),
    "/v1/chat/completions": (chat, "DECODER"),
    "/tokenize": (tokens, "TOKENIZE"),
    "/detokenize": (tokens, "DETOKENIZE"),
}


def test_every_route_with_a_body_is_here() -> None:
    assert {path for entry in ROUTES if entry.body is not None for path in entry.paths[:1]} == set(GOOD)


@pytest.mark.parametrize("path", MODULES)
def test_every_field_is_read(client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()

    class Spy(KINDS[path], forbid_unknown_fields=True):  # type: ignore[misc, call-arg]
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(*MODULES[path], msgspec.json.Decoder(Spy))
    bodies = [GOOD[path]]
    if path == "/generate":
        bodies.append({"text": "a", "pieces": [{"text": "b"}]})
    if path == "/tokenize":
        bodies.append({"messages": MESSAGES})
    for body in bodies:
        assert client.post(path, json=body).status_code == 200
    if path in GENERATING:
        assert client.post(path, json=GOOD[path] | {"stream": True}).status_code == 200
    assert set(KINDS[path].__struct_fields__) - read - set(IGNORED) - OF_TOOLS == set()


@pytest.mark.parametrize("path", GOOD)
def test_a_field_that_nobody_knows_is_refused(client: TestClient, path: str) -> None:
    field = max(KINDS[path].__struct_fields__, key=len)
    reply = client.post(path, json=GOOD[path] | {field + "x": 1})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == (field + "x", "unknown_parameter")
    assert f"did you mean {field!r}?" in error["message"]
    error = client.post(path, json=GOOD[path] | {"_" * 9000: None}).json()["error"]
    assert error["param"] == "_" * 64 and "/openapi.json" in error["message"]


@pytest.mark.parametrize("path", GENERATING)
def test_fields_that_cant_change_the_answer_are_taken(client: TestClient, path: str) -> None:
    for field in IGNORED:
        assert client.post(path, json=GOOD[path] | {field: {"a": 1}}).status_code == 200, field


@pytest.mark.parametrize("path", GENERATING)
def test_what_is_not_supported_is_refused_when_it_asks_for_something(client: TestClient, path: str) -> None:
    kind = KINDS[path]
    for field in [name for base in kind.__mro__ if base.__module__.endswith("fields") for name in vars(base)]:
        if field not in kind.__struct_fields__ or field in IGNORED:
            continue
        error = client.post(path, json=GOOD[path] | {field: "x"}).json()["error"]
        assert (error["param"], error["code"]) == (field, "unsupported_parameter")
        for nothing in [None, NEUTRAL.get(field), *([] if field in NEUTRAL else [[], {}, "", False, 0, [None, []]])]:
            assert client.post(path, json=GOOD[path] | {field: nothing}).status_code == 200, (field, nothing)


def test_the_fields_of_openais_client_are_known() -> None:
    """Those that its own methods have: an unknown one would be refused with a misleading hint."""
    asked = chat_params.CompletionCreateParamsStreaming.__annotations__
    assert set(asked) - set(ChatRequest.__struct_fields__) == set()
    asked = completion_params.CompletionCreateParamsBase.__annotations__
    assert set(asked) - set(CompletionRequest.__struct_fields__) == set()


NOTHING: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"sampling_params": {"stop_regex": []}}),
    ("/generate", {"sampling_params": {"stop_regex": None, "custom_params": None, "bad_words": None}}),
    ("/generate", {"sampling_params": {"custom_params": {}, "beam_width": 0, "stream_interval": 4}}),
    ("/generate", {"image_data": [None], "lora_path": None}),
    ("/v1/chat/completions", {"logprobs": False, "top_logprobs": 0}),
    ("/v1/chat/completions", {"top_logprobs": 0, "stream_options": {}, "modalities": ["text"]}),
    ("/v1/chat/completions", {"tools": [], "tool_choice": "none", "functions": [], "function_call": "none"}),
    ("/v1/completions", {"stop_regex": [], "best_of": 1, "suffix": "", "echo": False, "stream_options": None}),
]


@pytest.mark.parametrize(("path", "more"), NOTHING, ids=repr)
def test_what_asks_for_nothing_is_taken(client: TestClient, path: str, more: dict[str, Any]) -> None:
    reply = client.post(path, json=GOOD[path] | more)
    assert reply.status_code == 200, reply.text


def test_no_share_of_the_probability_is_greedy(client: TestClient, frontend: FakeFrontend) -> None:
    for path in GENERATING[1:]:
        assert client.post(path, json=GOOD[path] | {"top_p": 0, "temperature": 0.7}).status_code == 200
        assert frontend.prompts[-1].sampling.temperature == 0
    assert sampling_from({"top_p": 0.0}) == sampling_from({"temperature": 0})
    assert sampling_from({}, {"top_p": 0, "temperature": 1.0}).temperature == 0


KEPT: list[tuple[dict[str, Any], bytes]] = [
    ({"prompt": "abcdef", "truncate_prompt_tokens": 3}, b"def"),
    ({"prompt": "abcdef", "truncate_prompt_tokens": 3, "truncation_side": "left"}, b"def"),
    ({"prompt": [97, 98, 99], "truncate_prompt_tokens": 2, "truncation_side": "right"}, b"ab"),
    ({"prompt": "abc", "truncate_prompt_tokens": 9, "add_special_tokens": False}, b"abc"),
    ({"prompt": "a" + "b" * 5000, "truncate_prompt_tokens": -1, "max_tokens": 96}, b"b" * 4000),
    ({"messages": MESSAGES, "truncate_prompt_tokens": 11}, b"assistant: "),
    (
        {"messages": [{"role": "user", "content": "a" * 5000}], "truncate_prompt_tokens": -1, "max_tokens": 4085},
        b"assistant: ",
    ),
]


@pytest.mark.parametrize(("body", "kept"), KEPT, ids=lambda value: repr(value)[:60])
def test_a_prompt_is_cut_as_asked(client: TestClient, body: dict[str, Any], kept: bytes) -> None:
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    reply = client.post(path, json={"max_tokens": 2} | body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["prompt_tokens"] == len(kept)
    if "prompt" in body:
        echo = client.post(path, json=body | {"max_tokens": 2, "echo": True, "truncate_prompt_tokens": len(kept)})
        assert echo.json()["choices"][0]["text"] == (kept + kept[:2]).decode()


@pytest.mark.parametrize("count", [0, -2, 2**40])
def test_a_prompt_is_not_cut_to_nothing(client: TestClient, count: int) -> None:
    error = client.post("/v1/completions", json={"prompt": "abc", "truncate_prompt_tokens": count}).json()["error"]
    assert error["param"] == "truncate_prompt_tokens"


def test_special_tokens_stand_before_a_prompt_as_asked(client: TestClient) -> None:
    for path, is_usual in (("/v1/completions", True), ("/v1/chat/completions", False)):
        counts = [
            client.post(path, json=GOOD[path] | {"add_special_tokens": adds}).json()["usage"]["prompt_tokens"]
            for adds in (None, True, False)
        ]
        assert counts[1] == counts[2] + 1 and counts[0] == (counts[1] if is_usual else counts[2])


PARAMS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"prompt": "a" * 5000}, "prompt"),
    ("/v1/completions", {"prompt": [999]}, "prompt"),
    ("/v1/completions", {"max_tokens": -1}, "max_tokens"),
    ("/v1/completions", {"min_tokens": 5}, "min_tokens"),
    ("/v1/completions", {"seed": 2**70}, "seed"),
    ("/v1/completions", {"n": 0}, "n"),
    ("/v1/completions", {"guided_regex": ""}, "guided_regex"),
    ("/v1/completions", {"request_id": "x" * 300}, "request_id"),
    ("/v1/completions", {"rid": "x" * 300}, "rid"),
    ("/v1/completions", {"extra_key": "x" * 2000}, "extra_key"),
    ("/v1/chat/completions", {"cache_salt": "x" * 2000}, "cache_salt"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 5000}]}, "messages"),
    ("/v1/chat/completions", {"max_completion_tokens": -1}, "max_completion_tokens"),
    ("/v1/chat/completions", {"max_tokens": -1}, "max_tokens"),
    ("/v1/chat/completions", {"n": 0}, "n"),
    ("/generate", {"text": "a" * 5000}, "text"),
    ("/generate", {"text": None, "input_ids": [97] * 5000}, "input_ids"),
    ("/generate", {"text": None, "input_ids": [999]}, "input_ids"),
    ("/generate", {"sampling_params": {"seed": 2**70}}, "seed"),
    ("/generate", {"sampling_params": {"max_new_tokens": -1}}, "max_new_tokens"),
]


@pytest.mark.parametrize(("path", "more", "param"), PARAMS, ids=lambda value: repr(value)[:32])
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_names_the_clients_own_field(
    client: TestClient, path: str, more: dict[str, Any], param: str, stream: bool
) -> None:
    reply = client.post(path, json=GOOD[path] | more | {"stream": stream})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert not ({"max_new_tokens", "sampling_seed"} - {param}) & set(error["message"].split()), error


def test_an_alias_is_named_in_process() -> None:
    with pytest.raises(RequestError, match="seed must be") as caught:
        sampling_from({"seed": "x"})
    assert caught.value.param == "seed"
