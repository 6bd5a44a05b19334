"""`/generate` with pieces, over the fake engine: what it answers, streams and refuses."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from tests.server.conftest import Start
from tests.server.fake import BOS, FakeFrontend


def gen(tokens: int, **more: Any) -> dict[str, Any]:
    return {"gen": {"sampling_params": {"max_new_tokens": tokens, **more}}}


def post(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_pieces_follow_one_another_with_one_request_each(client: TestClient, frontend: FakeFrontend) -> None:
    answer = post(client, pieces=[{"text": "ab"}, gen(2), {"text": "c"}, gen(3)])
    assert [piece["text"] for piece in answer["pieces"]] == ["ab", "ab", "c", "aba"]
    assert answer["text"] == "ababcaba" and answer["input_ids"] == [BOS, *b"ababcaba"]
    assert [prompt.input_ids for prompt in frontend.prompts] == [[BOS, *b"ab"], [BOS, *b"ababc"]]
    meta = answer["meta_info"]
    assert (meta["prompt_tokens"], meta["cached_tokens"], meta["completion_tokens"]) == (9, 2, 5)
    assert meta["requests"] == 2 and meta["finish_reason"]["type"] == "stop"


def test_pieces_go_on_behind_text_or_ids(client: TestClient) -> None:
    by_text = post(client, text="ab", pieces=[gen(2)])
    by_ids = post(client, input_ids=[BOS, *b"ab"], pieces=[gen(2)])
    for answer in (by_text, by_ids):
        assert answer["text"] == "ab" and len(answer["pieces"]) == 1
        assert answer["output_ids"] == list(b"ab") and answer["input_ids"] == [BOS, *b"abab"]


def test_a_stop_string_is_cut_from_the_tokens_too(client: TestClient) -> None:
    answer = post(client, text="abc.", pieces=[gen(9, stop="c."), {"text": "!"}])
    assert answer["input_ids"] == [BOS, *b"abc.ab!"]


def test_several_samples_are_lists_and_the_first_goes_on(client: TestClient) -> None:
    answer = post(client, text="ab", pieces=[gen(2, n=2), {"text": "."}])
    assert answer["pieces"][0]["text"] == ["ab", "ba"] and answer["text"] == "ab."


def test_a_choice_is_scored_at_the_seam(client: TestClient, frontend: FakeFrontend) -> None:
    answer = post(client, text="ab", pieces=[{"select": {"choices": ["x", "yz"]}}])
    assert answer["text"] == "x"  # the fake's logprobs are all alike: the first of equals
    assert [prompt.input_ids for prompt in frontend.prompts] == [[BOS, *b"abx"], [BOS, *b"abyz"]]
    assert {prompt.logprob_start for prompt in frontend.prompts} == {3}
    meta = answer["pieces"][0]["meta_info"]
    assert meta["normalized_prompt_logprobs"] == [-1.0, -1.0]
    assert [[row[2] for row in rows] for rows in meta["input_token_logprobs"]] == [["x"], ["y", "z"]]


def test_choices_are_scored_alone_where_the_method_wants_it(client: TestClient, frontend: FakeFrontend) -> None:
    piece = {"select": {"choices": ["x", "yz"], "method": "unconditional_likelihood_normalized"}}
    meta = post(client, text="ab", pieces=[piece])["pieces"][0]["meta_info"]
    assert [prompt.input_ids for prompt in frontend.prompts[2:]] == [list(b"x"), list(b"yz")]
    assert meta["normalized_unconditional_prompt_logprobs"] == [0.0, -0.5]
    assert [len(rows) for rows in meta["unconditional_token_logprobs"]] == [1, 2]


def test_a_stream_brings_each_piece_as_it_grows_and_the_whole_at_the_end(client: TestClient) -> None:
    body = {"text": "ab", "pieces": [{"text": "c"}, gen(2), gen(1)], "stream": True}
    lines = [line for line in client.post("/generate", json=body).text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert [(event["piece"], event["text"]) for event in events if "text" in event and "piece" in event] == [
        (1, "a"), (1, "ab"), (2, "a"),
    ]  # fmt: skip
    growing = [event["meta_info"] for event in events if "text" in event and "piece" in event]
    assert [(meta["prompt_tokens"], meta["completion_tokens"]) for meta in growing] == [(4, 1), (4, 2), (6, 1)]
    assert len({meta["id"] for meta in growing}) == 1
    assert [event["piece"] for event in events if "result" in event] == [0, 1, 2]
    assert events[-1]["text"] == "caba" and len(events[-1]["pieces"]) == 3


def test_a_group_commits_and_pins_everything(client: TestClient, frontend: FakeFrontend) -> None:
    post(client, text="ab", pieces=[gen(1), {"text": "c"}], group={"id": "g", "size": 3})
    assert frontend.prompts[-1].sampling.max_new_tokens == 0
    assert frontend.pinned == {"g": [BOS, *b"abac"]}
    assert client.post("/release_group", json={"id": "g"}).status_code == 200
    assert frontend.pinned == {}


def test_a_group_of_one_pins_nothing(client: TestClient, frontend: FakeFrontend) -> None:
    post(client, text="ab", pieces=[], group={"id": "g", "size": 1})
    assert frontend.pinned == {} and frontend.prompts == []


def test_what_came_before_a_failure_is_told(client: TestClient, frontend: FakeFrontend) -> None:
    answer = post(client, text="ab", pieces=[gen(1), {"text": "x" * 5000}, gen(1)])
    assert [piece["text"][:1] for piece in answer["pieces"]] == ["a", "x"]
    reason = answer["meta_info"]["finish_reason"]
    assert (
        reason["type"] == "abort"
        and reason["status_code"] == 400
        and "maximum context length is 4096" in reason["message"]
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"pieces": [{}]}, "exactly one"),
        ({"pieces": [{"text": "a", "gen": {}}]}, "exactly one"),
        ({"pieces": [{"gen": {"sampling_params": {"temprature": 1}}}]}, "did you mean 'temperature'"),
        ({"pieces": [{"gen": {"unknown": 1}}]}, "unknown"),
        ({"pieces": [{"text": "a"}, {"select": {"choices": []}}]}, "choices"),
        ({"pieces": [{"text": "a"}, {"select": {"choices": ["b"], "method": "best"}}]}, "token_length_normalized"),
        ({"pieces": [{"select": {"choices": ["b"]}}]}, "needs text before"),
        ({"pieces": [{"text": "a"}] * 1025}, "at most 1024"),
        ({"pieces": [gen(1)]}, "empty"),
        ({"pieces": [gen(1)], "text": ["a", "b"]}, "one text"),
        ({"pieces": [gen(1)], "text": "a", "input_ids": [1]}, "at most one"),
        ({"pieces": [gen(1)], "text": "a", "sampling_params": {"n": 1}}, "stands in each gen"),
        ({"pieces": [], "text": "a", "group": {"id": "", "size": 2}}, "group"),
        ({"pieces": [{"media": {"kind": "image", "url": "data:,"}}]}, "has no vision"),
        ({"pieces": [gen(1)], "text": "a", "lora_path": "x"}, "lora_path is not supported"),
    ],
)
def test_bad_programs_are_refused(
    client: TestClient, frontend: FakeFrontend, body: dict[str, Any], message: str
) -> None:
    response = client.post("/generate", json=body)
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]["message"]
    assert not frontend.running


def test_pieces_need_a_tokenizer(client: TestClient, frontend: FakeFrontend) -> None:
    frontend.tokenizer = None
    response = client.post("/generate", json={"input_ids": [1], "pieces": [gen(1)]})
    assert response.status_code == 400 and "tokenizer" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_whole_program(start: Start, stream: bool) -> None:
    slow = FakeFrontend(step_s=0.05)
    body = {"text": "ab", "pieces": [gen(100), {"text": "c"}, gen(100)], "stream": stream}
    with start(slow) as url:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/generate", json=body, timeout=httpx2.Timeout(10, read=0.04 if stream else 0.3))
        deadline = time.monotonic() + 5
        while (slow.running or not slow.aborted) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not slow.running and slow.aborted and len(slow.prompts) == 1
