"""Whatever a client sends, the answer is a clear refusal, never a 500, and the server goes on."""

from __future__ import annotations

import math
from typing import Any

import pytest
from starlette.testclient import TestClient

from sgcore.config import ServerOptions
from sgcore.engine.pieces import GenPiece, SelectPiece
from sgcore.engine.sampling import CHECKS, NOT_SUPPORTED, sampling_from
from sgcore.errors import RequestError
from sgcore.server.app import create_app
from tests.server.fake import FakeFrontend

MESSAGES = [{"role": "user", "content": "a"}]
POSTS = ["/generate", "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/abort_request"]
GOOD: dict[str, dict[str, Any]] = {
    "/generate": {"text": "a", "sampling_params": {"max_new_tokens": 1}},
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 1},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [97]},
    "/abort_request": {"rid": "x"},
}
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "not json": b"{",
    "trailing": b"{} {}",
    "array": b"[]",
    "number": b"1",
    "null": b"null",
    "string": b'"a"',
    "broken utf-8": b'{"text": "\xff\xfe"}',
    "broken utf-8 key": b'{"\xff": 1}',
    "nul": b"\x00",
    "bom": b"\xef\xbb\xbf{}",
    "nan": b'{"text": "a", "prompt": "a", "temperature": NaN}',
    "infinity": b'{"text": "a", "prompt": "a", "temperature": Infinity}',
    "overflow": b'{"text": "a", "prompt": "a", "temperature": 1e999}',
    "lone surrogate": b'{"text": "\\ud800", "prompt": "\\ud800"}',
    "deep arrays": b'{"text": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
    "deep objects": b'{"unknown": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}",
    "deep parameters": b'{"text": "a", "sampling_params": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "long number": b'{"text": "a", "prompt": "a", "n": ' + b"9" * 100_000 + b"}",
}
MAY_BE_IGNORED = ("overflow", "long number")
"""Well-formed JSON: a route that doesn't know the field doesn't look at its value."""


def assert_refused(reply: Any) -> Any:
    assert 400 <= reply.status_code < 500, (reply.status_code, reply.text[:200])
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert len(reply.content) < 4096
    return error


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", BROKEN)
def test_broken_bodies(client: TestClient, path: str, name: str) -> None:
    reply = client.post(path, content=BROKEN[name], headers={"content-type": "application/json"})
    if name in MAY_BE_IGNORED and reply.status_code == 200:
        return
    assert_refused(reply)
    assert client.post(path, json=GOOD[path]).status_code == 200


WRONG: list[Any] = [True, -1, 10**30, 1.5, "x", "", [], {}, [None], [-1], [1.5], {"a": {}}, ["a", 1], [[[]]], -1e300]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_wrong_types_in_every_field(client: TestClient, path: str, value: Any) -> None:
    from sgcore.server.routes import ROUTES

    (entry,) = [entry for entry in ROUTES if path in entry.paths]
    for field in entry.body.__struct_fields__:
        reply = client.post(path, json=GOOD[path] | {field: value})
        assert reply.status_code < 500, (field, value, reply.text)
        if reply.status_code >= 400:
            assert_refused(reply)


PIECES: dict[str, dict[str, Any]] = {
    "gen": {"sampling_params": {"max_new_tokens": 1}, "return_logprob": True},
    "select": {"choices": ["a"]},
}


@pytest.mark.parametrize("kind", PIECES)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_wrong_types_in_every_field_of_a_piece(client: TestClient, kind: str, value: Any) -> None:
    struct = {"gen": GenPiece, "select": SelectPiece}[kind]
    for field in struct.__struct_fields__:
        body = {"text": "a", "pieces": [{kind: PIECES[kind] | {field: value}}], "group": {"id": "g", "size": value}}
        for asked in (body, body | {"group": None}):
            reply = client.post("/generate", json=asked)
            assert reply.status_code < 500, (field, value, reply.text)


SAMPLING: list[tuple[str, Any]] = [
    ("temperature", -0.1),
    ("temperature", "hot"),
    ("temperature", True),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", 10**400),
    ("top_p", -0.1),
    ("top_p", 1.1),
    ("top_k", -2),
    ("top_k", 2.5),
    ("top_k", 2**40),
    ("min_p", -0.1),
    ("frequency_penalty", 2.1),
    ("presence_penalty", -2.1),
    ("repetition_penalty", 0),
    ("repetition_penalty", math.nan),
    ("max_new_tokens", -1),
    ("max_new_tokens", 1.5),
    ("max_new_tokens", "5"),
    ("max_new_tokens", 10**30),
    ("min_new_tokens", 129),
    ("n", 0),
    ("n", 10**9),
    ("stop", 5),
    ("stop", [""]),
    ("stop", ["a"] * 33),
    ("stop", [1]),
    ("stop", "a" * 5000),
    ("stop_regex", "("),
    ("stop_regex", "a*"),
    ("stop_regex", ["a", ""]),
    ("stop_regex", "a" * 300),
    ("stop_regex", "(?R)"),
    ("stop_regex", [1]),
    ("stop_regex", ["a"] * 33),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", "abc"),
    ("stop_token_ids", [True]),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"5": math.nan}),
    ("logit_bias", {"5": 101}),
    ("logit_bias", {"٣": 1}),
    ("logit_bias", {"9" * 5000: 1}),
    ("logit_bias", []),
    ("logit_bias", dict.fromkeys(range(1025), 1)),
    ("sampling_seed", 2**63),
    ("ignore_eos", 1),
    ("skip_special_tokens", "no"),
    ("regex", ""),
    ("regex", 5),
    ("regex", "a" * 600_000),
    ("json_schema", "{"),
    ("json_schema", "[1]"),
    ("json_schema", '{"a":' * 100_000),
    ("structural_tag", "x"),
    ("choice", []),
    ("choice", [""]),
    ("constraint_after", [-1]),
    ("custom_params", {"a": 1}),
    ("temprature", 1),
]


@pytest.mark.parametrize(("name", "value"), SAMPLING, ids=lambda value: repr(value)[:24])
def test_sampling_refusals_name_the_field(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        sampling_from({name: value})
    assert caught.value.status == 400 and caught.value.param == name


def test_sampling_accepts_nulls_aliases_and_every_name() -> None:
    assert sampling_from(dict.fromkeys(CHECKS)) == sampling_from({}) == sampling_from(None)
    assert sampling_from({"seed": 5}).sampling_seed == 5
    assert sampling_from({"stop": "a"}).stop == ("a",)
    assert sampling_from({"top_k": 0}).top_k == -1
    assert sampling_from({}, {"temperature": 0.5}).temperature == 0.5
    assert sampling_from({"temperature": 1}, {"temperature": 0.5}).temperature == 1
    assert sampling_from({}).max_new_tokens == 128
    assert sampling_from({}, fill_context=True).max_new_tokens is None
    assert sampling_from(dict.fromkeys(NOT_SUPPORTED & set(CHECKS))) == sampling_from({})


def test_a_misspelt_name_gets_a_hint(client: TestClient) -> None:
    reply = client.post("/generate", json={"text": "a", "sampling_params": {"max_tokens": 5}})
    assert "did you mean" in assert_refused(reply)["message"]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("/generate", {}, "exactly one of text and input_ids"),
    ("/generate", {"text": "a", "input_ids": [1]}, "exactly one"),
    ("/generate", {"text": []}, "empty"),
    ("/generate", {"input_ids": []}, "empty"),
    ("/generate", {"input_ids": [[]]}, "empty"),
    ("/generate", {"input_ids": [1, [2]]}, "token ids"),
    ("/generate", {"input_ids": [-5]}, "token ids"),
    ("/generate", {"input_ids": [10**30]}, "token ids"),
    ("/generate", {"input_ids": [300]}, "vocabulary"),
    ("/generate", {"text": "a" * 5000}, "4096"),
    ("/generate", {"text": ["a", "b"], "sampling_params": [{}]}, "1 entries for 2"),
    ("/generate", {"text": ["a", "b"], "rid": ["x", "x"]}, "twice"),
    ("/generate", {"text": "a", "timeout": 0}, "timeout must be above 0"),
    ("/v1/completions", {"prompt": "a", "timeout": 1e300}, "timeout must be above 0"),
    ("/generate", {"text": "a", "image_data": "http://x"}, "image_data is not supported"),
    ("/generate", {"text": "a", "return_logprob": True, "top_logprobs_num": 10**6}, "top_logprobs_num"),
    ("/generate", {"text": "a", "pieces": [{"gen": {"return_logprob": True, "top_logprobs_num": 49153}}]}, "256"),
    ("/generate", {"text": "a", "pieces": [], "group": {"id": "g", "size": 10**30}}, "group.size"),
    ("/generate", {"text": "a", "cache_salt": "s" * 1025}, "cache_salt must be a text of 0 to 1024"),
    ("/generate", {"text": "a", "priority": 10**30}, "priority is not supported"),
    ("/v1/chat/completions", {"model": "fake", "messages": [], "priority": -1}, "priority is not supported"),
    ("/generate", {"text": "a", "sampling_params": {"watermark": True}}, "not supported yet"),
    ("/generate", {"text": "a", "sampling_params": {"regex": "a", "choice": ["b"]}}, "regex and choice exclude"),
    ("/v1/completions", {}, "prompt"),
    ("/v1/completions", {"prompt": []}, "empty"),
    ("/v1/completions", {"prompt": ["a", 1]}, "token ids"),
    ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
    ("/v1/completions", {"prompt": "a", "n": 4, "best_of": 3}, "best_of must be from n (4)"),
    ("/v1/completions", {"prompt": "a", "max_tokens": -1}, "max_tokens must be"),
    ("/v1/completions", {"prompt": "a", "min_tokens": 99}, "min_tokens must be at most max_tokens"),
    ("/v1/completions", {"prompt": "a", "logprobs": 21}, "logprobs must be from 0 to 20"),
    ("/v1/completions", {"prompt": "a", "stream_options": {"include_usage": True}}, "needs stream"),
    ("/v1/chat/completions", {"messages": []}, "messages is empty"),
    ("/v1/chat/completions", {"messages": [{"role": "refused", "content": ""}]}, "refused the messages"),
    ("/v1/chat/completions", {"messages": MESSAGES, "tools": [{"type": "function"}]}, "tools[0].function is missing"),
    ("/v1/chat/completions", {"messages": MESSAGES, "response_format": {"type": "yaml"}}, "yaml"),
    ("/v1/chat/completions", {"messages": MESSAGES, "response_format": {"type": "json_schema"}}, "json_schema.schema"),
    (
        "/v1/chat/completions",
        {"messages": MESSAGES, "regex": "a", "response_format": {"type": "json_object"}},
        "response_format and regex exclude",
    ),
    ("/v1/chat/completions", {"messages": MESSAGES, "top_logprobs": 2}, "needs logprobs"),
    ("/v1/chat/completions", {"messages": MESSAGES, "chat_template_kwargs": {"chat_template": "x"}}, "may not set"),
    (
        "/v1/chat/completions",
        {"messages": MESSAGES, "chat_template_kwargs": {"sanitize_control_tokens": True}},
        "may not set 'sanitize_control_tokens'",
    ),
    ("/v1/chat/completions", {"messages": MESSAGES, "continue_final_message": True}, "assistant"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "only text is",
    ),
    ("/tokenize", {}, "exactly one"),
    ("/detokenize", {"tokens": [-1]}, "token ids"),
    ("/detokenize", {"tokens": [10**9]}, "below"),
]


@pytest.mark.parametrize(("path", "body", "says"), REFUSED, ids=lambda value: repr(value)[:40])
def test_refusals_say_what_is_wrong(client: TestClient, path: str, body: dict[str, Any], says: str) -> None:
    assert says in assert_refused(client.post(path, json=body))["message"]


def test_bodies_have_a_limit() -> None:
    client = TestClient(create_app(FakeFrontend(), ServerOptions(max_body_bytes=1000)))
    body = b'{"text": "' + b"a" * 2000 + b'"}'
    kind = {"content-type": "application/json"}
    declared = client.post("/generate", content=body, headers=kind)
    counted = client.post("/generate", content=iter([body[:600], body[600:]]), headers=kind)
    assert declared.status_code == counted.status_code == 413
    assert "1000 bytes" in assert_refused(declared)["message"]


def test_other_content_is_refused(client: TestClient) -> None:
    reply = client.post("/generate", content=b"text=a", headers={"content-type": "application/x-www-form-urlencoded"})
    assert reply.status_code == 415
    assert client.post("/generate", content=b'{"text": "a"}').status_code == 200


def test_unknown_routes_and_methods_have_the_same_shape(client: TestClient) -> None:
    missing, wrong = client.get("/v1/nothing"), client.get("/v1/completions")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert "/openapi.json" in assert_refused(missing)["message"]
    assert "POST" in wrong.headers["allow"] and assert_refused(wrong)


def test_an_unexpected_error_names_the_request(client: TestClient, frontend: FakeFrontend) -> None:
    frontend.tokenizer.encode = None  # type: ignore[union-attr, method-assign, assignment]
    reply = client.post("/tokenize", json={"prompt": "a"}, headers={"x-request-id": "r7"})
    assert reply.status_code == 500 and reply.headers["x-request-id"] == "r7"
    error = reply.json()["error"]
    assert error["type"] == "server_error" and "r7" in error["message"] and "NoneType" not in error["message"]


MANY: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"text": ["a"] * 5}),
    ("/generate", {"input_ids": [[1]] * 5}),
    ("/generate", {"text": "a", "sampling_params": {"n": 5}}),
    ("/generate", {"text": ["a", "b"], "sampling_params": [{"n": 1}, {"n": 4}]}),
    ("/v1/completions", {"prompt": ["a"] * 5}),
    ("/v1/completions", {"prompt": [[1]] * 5}),
    ("/v1/completions", {"prompt": ["a", "b", "c"], "n": 2}),
    ("/tokenize", {"prompt": ["a"] * 5}),
    ("/detokenize", {"tokens": [[1]] * 5}),
]


@pytest.mark.parametrize(("path", "body"), MANY, ids=repr)
def test_prompts_of_a_request_are_bounded(path: str, body: dict[str, Any]) -> None:
    client = TestClient(create_app(FakeFrontend(), ServerOptions(max_request_prompts=4)))
    assert "--max-request-prompts" in assert_refused(client.post(path, json=body))["message"]
    enough = TestClient(create_app(FakeFrontend(), ServerOptions(max_request_prompts=6)))
    assert enough.post(path, json=body).status_code == 200


PARTS = {
    "lists": b'{"input_ids": [' + b",".join([b"[1]"] * 200_000) + b"]}",
    "objects": b'{"text": "a", "sampling_params": [' + b",".join([b"{}"] * 200_000) + b"]}",
    "quotes": b'{"text": [' + b",".join([b'""'] * 600_000) + b"]}",
    "commas": b'{"input_ids": [' + b",".join([b"1"] * 5_000_000) + b"]}",
}


@pytest.mark.parametrize("name", PARTS)
def test_a_body_of_too_many_parts_is_refused_before_it_is_parsed(client: TestClient, name: str) -> None:
    reply = client.post("/generate", content=PARTS[name])
    assert reply.status_code == 413 and f"{name};" in assert_refused(reply)["message"]


def test_bodies_that_arrive_at_once_have_a_limit_together(frontend: FakeFrontend) -> None:
    app = create_app(frontend, ServerOptions(max_body_bytes=1000))
    client = TestClient(app)
    app.state.service.held_bytes = 16_000 - 5
    reply = client.post("/generate", content=iter([b'{"text": "a"}']))
    assert reply.status_code == 503 and reply.json()["error"]["type"] == "server_error"
    assert app.state.service.held_bytes == 16_000 - 5
    app.state.service.held_bytes = 0
    assert client.post("/generate", json={"text": "a"}).status_code == 200 and app.state.service.held_bytes == 0
