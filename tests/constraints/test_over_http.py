"""Constraints over HTTP, as clients ask for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import openai
import pytest

from tests.integration.serving import Server

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a name": {"type": "string", "maxLength": 6}, "size": {"enum": [1, 2, 3]}},
    "required": ["a name", "size"],
    "additionalProperties": False,
}
FORMAT: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
MESSAGES: list[Any] = [{"role": "user", "content": "Say"}]


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    template = tmp_path_factory.mktemp("template") / "chat.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    log = tmp_path_factory.mktemp("constrained") / "log"
    started = Server(log, "--dtype", "float32", "--chat-template", str(template), model=folder).wait_ready()
    yield started
    assert started.stop() == 0, started.log.read_text()


def test_chat_follows_a_schema(server: Server) -> None:
    client = server.client()
    chat = client.chat.completions.create(model="smol", messages=MESSAGES, response_format=FORMAT, n=3)
    for choice in chat.choices:
        assert choice.finish_reason == "stop" and choice.message.content is not None
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
    stream = client.chat.completions.create(model="smol", messages=MESSAGES, response_format=FORMAT, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    jsonschema.validate(json.loads(text), SCHEMA)


def test_log_probabilities_stand_beside_each_token(server: Server) -> None:
    chat = server.client().chat.completions.create(
        model="smol", messages=MESSAGES, response_format=FORMAT, logprobs=True, top_logprobs=2
    )
    choice, usage = chat.choices[0], chat.usage
    assert usage is not None and choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == usage.completion_tokens


def test_any_object_patterns_and_vllms_names(server: Server) -> None:
    client = server.client()
    said = client.chat.completions.create(
        model="smol", messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=400, logit_bias={"96": 9}
    )
    assert (said.choices[0].message.content or "").startswith("{")
    for extra in ({"regex": "[0-9]{4}"}, {"guided_regex": "[0-9]{4}"}, {"ebnf": "root ::= [0-9] [0-9] [0-9] [0-9]"}):
        completion = client.completions.create(model="smol", prompt="Say", extra_body=extra)
        assert re.fullmatch("[0-9]{4}", completion.choices[0].text)
    completion = client.completions.create(model="smol", prompt="Say", extra_body={"guided_choice": ["x y", "z"]})
    assert completion.choices[0].text in ("x y", "z")


def test_what_is_not_supported_is_named(server: Server) -> None:
    schema = {**FORMAT, "json_schema": {"name": "thing", "schema": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        server.client().chat.completions.create(model="smol", messages=MESSAGES, response_format=schema)
    with pytest.raises(openai.BadRequestError, match="exclude each other"):
        server.client().completions.create(model="smol", prompt="a", extra_body={"regex": "a", "choice": ["b"]})
    body = {"text": "a", "sampling_params": {"regex": "a("}, "stream": True}
    reply = httpx2.post(f"{server.url}/generate", json=body, timeout=30)
    assert reply.status_code == 400 and "unclosed group" in reply.json()["error"]["message"]
