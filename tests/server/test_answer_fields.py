"""Fields that say what an answer holds: token ids, tokens' names, the prompt's log-probabilities, the best samples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from sgcore import Engine
from sgcore.config import ServerOptions
from sgcore.server.app import create_app
from tests.constraints.conftest import OpenEngine, folder, open_engine  # noqa: F401
from tests.server.conftest import Start
from tests.server.fake import FakeFrontend

HELLO: Any = [{"role": "user", "content": "Hi"}]
PROMPT_IDS = list(b"user: Hi\nassistant: ")
BEGUN: Any = [*HELLO, {"role": "assistant", "content": [{"type": "text", "text": "So it "}]}]


@pytest.fixture(scope="module")
def ai(start: Start) -> Iterator[openai.OpenAI]:
    with start(FakeFrontend()) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def engine(open_engine: OpenEngine) -> Engine:  # noqa: F811
    return open_engine(page_size=4)


@pytest.fixture(scope="module")
def real(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine.frontend, ServerOptions())) as client:
        yield client


def complete(real: TestClient, **body: Any) -> Any:
    reply = real.post("/v1/completions", json={"prompt": "The licence", "max_tokens": 8} | body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_token_ids_of_a_chat_and_of_its_stream(ai: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "fake", "messages": HELLO, "max_tokens": 7, "n": 2}
    extra = {"return_token_ids": True}
    whole = ai.chat.completions.create(**asked, extra_body=extra).model_dump()
    assert whole["prompt_token_ids"] == PROMPT_IDS
    assert [choice["token_ids"] for choice in whole["choices"]] == [PROMPT_IDS[:7], PROMPT_IDS[1:8]]
    ids: dict[int, list[int]] = {0: [], 1: []}
    prompts = []
    for part in ai.chat.completions.create(**asked, stream=True, extra_body=extra):
        prompts.append(part.model_dump().get("prompt_token_ids"))
        for choice in part.choices:
            ids[choice.index] += choice.model_dump().get("token_ids") or []
    assert [ids[0], ids[1]] == [PROMPT_IDS[:7], PROMPT_IDS[1:8]]
    assert prompts[0] == PROMPT_IDS
    plain = ai.chat.completions.create(**asked).model_dump()
    assert "prompt_token_ids" not in plain and "token_ids" not in plain["choices"][0]


def test_token_ids_of_completions_and_of_their_stream(ai: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "fake", "prompt": [[97, 98], [99, 100]], "max_tokens": 3}
    extra = {"return_token_ids": True}
    whole = ai.completions.create(**asked, extra_body=extra).model_dump()["choices"]
    assert [choice["prompt_token_ids"] for choice in whole] == [[97, 98], [99, 100]]
    assert [choice["token_ids"] for choice in whole] == [[97, 98, 97], [99, 100, 99]]
    ids: dict[int, list[int]] = {0: [], 1: []}
    prompts: dict[int, list[Any]] = {0: [], 1: []}
    for part in ai.completions.create(**asked, stream=True, extra_body=extra):
        for choice in (choice.model_dump() for choice in part.choices):
            ids[choice["index"]] += choice["token_ids"]
            prompts[choice["index"]].append(choice.get("prompt_token_ids"))
    assert ids == {0: [97, 98, 97], 1: [99, 100, 99]}
    assert [found[0] for found in prompts.values()] == [[97, 98], [99, 100]]
    assert not any(found[1:] != [None] * (len(found) - 1) for found in prompts.values())


def test_tokens_named_by_their_ids(ai: openai.OpenAI) -> None:
    extra = {"return_tokens_as_token_ids": True}
    asked: dict[str, Any] = {"model": "fake", "max_tokens": 2, "extra_body": extra}
    logprobs = ai.completions.create(prompt=[97, 98], logprobs=1, **asked).choices[0].logprobs
    assert logprobs is not None and logprobs.tokens == ["token_id:97", "token_id:98"]
    assert logprobs.top_logprobs == [{"token_id:97": -0.5}, {"token_id:98": -0.5}]
    assert logprobs.text_offset == [0, 1]
    chat = ai.chat.completions.create(messages=HELLO, logprobs=True, top_logprobs=2, **asked).choices[0].logprobs
    assert chat is not None and chat.content is not None
    assert [entry.token for entry in chat.content] == ["token_id:117", "token_id:115"]
    assert [top.token for top in chat.content[0].top_logprobs] == ["token_id:117", "token_id:118"]


@pytest.mark.parametrize("messages", [HELLO, BEGUN], ids=["a question", "a begun answer"])
def test_an_answer_may_repeat_its_beginning(ai: openai.OpenAI, messages: Any) -> None:
    asked: dict[str, Any] = {"model": "fake", "messages": messages, "max_tokens": 4}
    extra = {"continue_final_message": messages is BEGUN}
    plain = ai.chat.completions.create(**asked, extra_body=extra).choices[0].message.content
    wanted = ("So it " if messages is BEGUN else "") + str(plain)
    extra["echo"] = True
    assert ai.chat.completions.create(**asked, extra_body=extra).choices[0].message.content == wanted
    parts = list(ai.chat.completions.create(**asked, stream=True, extra_body=extra))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == wanted


@pytest.mark.parametrize("count", [0, 2])
def test_log_probabilities_of_a_prompt(real: TestClient, engine: Engine, count: int) -> None:
    assert engine.tokenizer is not None
    ids = engine.tokenizer.encode("The licence")
    reply = engine.generate(
        "The licence", {"max_new_tokens": 0}, return_logprob=True, logprob_start_len=0, top_logprobs_num=5
    )["meta_info"]
    choice = complete(real, prompt_logprobs=count, logprobs=5, max_tokens=2)["choices"][0]
    found = choice["prompt_logprobs"]
    assert len(found) == len(ids) and found[0] is None
    for place in range(1, len(ids)):
        top = {str(token): logprob for logprob, token, _ in reply["input_top_logprobs"][place][:count]}
        own = reply["input_token_logprobs"][place][0]
        said = {token: entry["logprob"] for token, entry in found[place].items()}
        assert said == pytest.approx(top | {str(ids[place]): own}, abs=1e-5)
        for rank, token in enumerate(top, 1):
            assert found[place][token]["rank"] == rank
    assert len(choice["logprobs"]["tokens"]) == 2, "not the prompt's"
    assert all(len(top) in (5, 6) for top in choice["logprobs"]["top_logprobs"])
    alone = complete(real, prompt_logprobs=count, max_tokens=0)["choices"][0]
    assert alone["logprobs"] is None and alone["text"] == "" and len(alone["prompt_logprobs"]) == len(ids)


def test_log_probabilities_of_a_conversation(ai: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "fake", "messages": HELLO, "max_tokens": 2}
    reply = ai.chat.completions.create(**asked, extra_body={"prompt_logprobs": 0}).model_dump()
    assert reply["prompt_logprobs"][0] is None
    assert reply["prompt_logprobs"][1] == {"115": {"logprob": -1.0, "rank": None, "decoded_token": "s"}}
    assert len(reply["prompt_logprobs"]) == len(PROMPT_IDS) and reply["choices"][0]["logprobs"] is None
    for extra, stream in (({"prompt_logprobs": 21}, False), ({"prompt_logprobs": 1}, True)):
        with pytest.raises(openai.BadRequestError) as caught:
            ai.chat.completions.create(**asked, stream=stream, extra_body=extra)
        assert caught.value.param == "prompt_logprobs"


def test_the_best_of_several_samples(real: TestClient) -> None:
    asked = {"temperature": 1.5, "seed": 5, "logprobs": 0, "ignore_eos": True, "prompt": ["The licence", "It is"]}
    drawn = complete(real, n=6, **asked)["choices"]
    wanted = []
    for place in (0, 6):
        means = [sum(choice["logprobs"]["token_logprobs"]) / 8 for choice in drawn[place : place + 6]]
        order = sorted(range(6), key=lambda n, means=means: -means[n])  # type: ignore[misc]
        wanted += [drawn[place + n]["text"] for n in order[:2]]
    reply = complete(real, n=2, best_of=6, **asked)
    assert [choice["text"] for choice in reply["choices"]] == wanted
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert reply["usage"]["completion_tokens"] == 12 * 8
    asked.pop("logprobs")
    assert [choice["text"] for choice in complete(real, n=2, best_of=6, **asked)["choices"]] == wanted
    assert complete(real, n=2, best_of=6, **asked)["choices"][0]["logprobs"] is None
    assert len(complete(real, best_of=3)["choices"]) == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"n": 3, "best_of": 2}, r"best_of must be from n \(3\)"),
        ({"best_of": 10**6}, "best_of must be from"),
        ({"best_of": -1}, "best_of must be from"),
        ({"best_of": 2, "stream": True}, "streamed"),
    ],
)
def test_refusals_of_best_of(real: TestClient, body: dict[str, Any], says: str) -> None:
    error = real.post("/v1/completions", json={"prompt": "a", **body}).json()["error"]
    assert error["param"] == "best_of"
    assert re.search(says, error["message"])


def test_bans_and_expressions_over_http(real: TestClient, engine: Engine) -> None:
    choice = complete(real, allowed_token_ids=[40, 41], temperature=1, return_token_ids=True)["choices"][0]
    assert set(choice["token_ids"]) <= {40, 41}
    text = complete(real, temperature=0, max_tokens=40)["choices"][0]["text"]
    word = next(part for part in text.split() if part.isascii() and part.isalpha() and len(part) > 1)
    assert engine.tokenizer is not None
    token = next(token for token in engine.tokenizer.encode_more(word) if token < 600)
    banned = {"bad_words": [engine.tokenizer.decode([token])], "return_token_ids": True}
    assert token not in complete(real, temperature=0, max_tokens=40, **banned)["choices"][0]["token_ids"]
    stopped = complete(real, temperature=0, max_tokens=40, stop_regex=word, include_stop_str_in_output=True)
    assert stopped["choices"][0]["text"] == text[: text.index(word) + len(word)]
    assert stopped["choices"][0]["matched_stop"] == word and stopped["choices"][0]["finish_reason"] == "stop"
    error = real.post("/v1/completions", json={"prompt": "a", "allowed_token_ids": [600]}).json()["error"]
    assert error["param"] == "allowed_token_ids"
