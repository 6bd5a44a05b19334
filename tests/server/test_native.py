"""`/generate`, the tokenizer's routes and the administrative ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from sgcore.config import ServerOptions
from sgcore.server.app import create_app
from sgcore.server.metrics import NAMES
from sgcore.server.service import Service
from tests.server.fake import BOS, FakeFrontend

HELLO = [{"role": "user", "content": "hello"}]


def generate(client: TestClient, **body: Any) -> Any:
    reply = client.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def events(client: TestClient, **body: Any) -> list[Any]:
    reply = client.post("/generate", json=body | {"stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line[6:] for line in reply.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_one_prompt_gives_one_object(client: TestClient) -> None:
    reply = generate(client, text="abc", sampling_params={"max_new_tokens": 4}, rid="r")
    assert reply["text"] == "abca" and reply["output_ids"] == [97, 98, 99, 97]
    latency = reply["meta_info"].pop("e2e_latency")
    assert 0 <= latency < 5
    assert reply["meta_info"] == {
        "id": "r",
        "finish_reason": {"type": "length", "length": 4},
        "prompt_tokens": 4,
        "completion_tokens": 4,
        "cached_tokens": 1,
        "num_retractions": 0,
        "weight_version": "default",
    }


def test_lists_give_lists_and_samples_stand_together(client: TestClient) -> None:
    params = {"max_new_tokens": 1}
    assert [r["text"] for r in generate(client, text=["a", "b"], sampling_params=params)] == ["a", "b"]
    assert len(generate(client, text=["a"], sampling_params=params)) == 1
    assert len(generate(client, input_ids=[[97], [98]], sampling_params=[params, {"max_new_tokens": 2}])) == 2
    two = generate(client, text="ab", sampling_params=params | {"n": 2})
    assert [reply["text"] for reply in two] == ["a", "b"]
    assert generate(client, input_ids=[97], sampling_params=params)["text"] == "a"


def test_put_works_as_post(client: TestClient) -> None:
    assert client.put("/generate", json={"text": "a", "sampling_params": {"max_new_tokens": 1}}).json()["text"] == "a"


def test_stream_is_cumulative_and_ends_like_the_whole(client: TestClient) -> None:
    body: dict[str, Any] = {"text": "Grüße", "sampling_params": {"max_new_tokens": 9}, "rid": "r"}
    parts, whole = events(client, **body), generate(client, **body)
    assert [len(part["text"]) for part in parts] == sorted(len(part["text"]) for part in parts)
    parts[-1]["meta_info"].pop("e2e_latency"), whole["meta_info"].pop("e2e_latency")
    assert parts[-1] == whole
    assert all(part["meta_info"]["finish_reason"] is None for part in parts[:-1])


def test_batched_stream_carries_indexes(client: TestClient) -> None:
    parts = events(client, text=["a", "b"], sampling_params={"max_new_tokens": 3, "n": 2})
    last = {part["index"]: part["text"] for part in parts}
    assert last == {0: "aaa", 1: "aaa", 2: "bbb", 3: "bbb"}


def test_logprobs(client: TestClient) -> None:
    asked: dict[str, Any] = {"text": "ab", "sampling_params": {"max_new_tokens": 1}, "return_logprob": True}
    meta = generate(client, **asked, logprob_start_len=0, top_logprobs_num=1, return_text_in_logprobs=True)["meta_info"]
    assert meta["input_token_logprobs"] == [[None, BOS, "<s>"], [-1.0, 97, "a"], [-1.0, 98, "b"]]
    assert meta["output_token_logprobs"] == [[-0.5, 97, "a"]]
    assert meta["output_token_logprobs_length"] == 1
    assert meta["output_top_logprobs"] == [[[-0.5, 97, "a"]]]
    assert generate(client, **asked)["meta_info"]["output_token_logprobs"] == [[-0.5, 97, None]]


def test_stop_string_is_named(client: TestClient) -> None:
    reply = generate(client, text="abc", sampling_params={"stop": "c", "max_new_tokens": 9})
    assert reply["text"] == "ab"
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": "c"}


def test_without_a_tokenizer_ids_go_in_and_out(client: TestClient, frontend: FakeFrontend) -> None:
    frontend.tokenizer = None
    reply = generate(client, input_ids=[1, 2], sampling_params={"max_new_tokens": 2})
    assert "text" not in reply and reply["output_ids"] == [1, 2]
    assert client.post("/generate", json={"text": "a"}).status_code == 400
    assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 400


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_tokenize_and_back(client: TestClient, prefix: str) -> None:
    reply = client.post(f"{prefix}/tokenize", json={"prompt": "ab"}).json()
    assert reply == {"tokens": [BOS, 97, 98], "count": 3, "max_model_len": 4096}
    bare = client.post(f"{prefix}/tokenize", json={"prompt": ["a", "bc"], "add_special_tokens": False}).json()
    assert bare["tokens"] == [[97], [98, 99]] and bare["count"] == [1, 2]
    assert client.post(f"{prefix}/detokenize", json={"tokens": reply["tokens"]}).json() == {"text": "ab"}
    assert client.post(f"{prefix}/detokenize", json={"tokens": [[97], [98]]}).json() == {"text": ["a", "b"]}
    chat = client.post(f"{prefix}/tokenize", json={"messages": [{"role": "user", "content": "a"}]}).json()
    assert bytes(chat["tokens"]) == b"user: a\nassistant: "


def test_health_follows_the_engine(client: TestClient, frontend: FakeFrontend) -> None:
    for path in ("/health", "/ready", "/ping", "/health_generate"):
        reply = client.get(path)
        assert (reply.status_code, reply.content) == (200, b"")
    frontend.is_alive_now = False
    assert client.get("/health").status_code == 503
    frontend.failure = "gone"
    assert client.get("/health_generate").status_code == 503


def test_nothing_is_answered_before_the_engine_is_ready() -> None:
    client = TestClient(create_app(None, ServerOptions()))
    assert client.get("/health").status_code == 503
    reply = client.post("/generate", json={"text": "a"})
    assert reply.status_code == 503 and reply.json()["error"]["message"] == "the server is starting"
    assert client.get("/metrics").status_code == 200


def test_draining_refuses_new_work(client: TestClient) -> None:
    client.app.state.service.is_stopping = True  # type: ignore[attr-defined]
    assert client.get("/health").status_code == 503
    reply = client.post("/generate", json={"text": "a"})
    assert reply.status_code == 503 and reply.headers["retry-after"]


@pytest.mark.parametrize("path", ["/model_info", "/get_model_info"])
def test_model_info(client: TestClient, path: str) -> None:
    info = client.get(path).json()
    assert info["model_path"] == "/models/fake" and info["is_generation"] is True
    assert info["architectures"] == ["FakeForCausalLM"]


@pytest.mark.parametrize("path", ["/server_info", "/get_server_info"])
def test_server_info_has_no_secret(path: str) -> None:
    frontend = FakeFrontend(api_key="sesame")
    client = TestClient(create_app(frontend, ServerOptions(api_key="sesame")))
    reply = client.get(path, headers={"authorization": "Bearer sesame"})
    assert reply.status_code == 200 and "sesame" not in reply.text
    assert reply.json()["max_total_num_tokens"] == 65536 and reply.json()["internal_states"]


def test_flush_cache(client: TestClient, frontend: FakeFrontend) -> None:
    assert client.post("/flush_cache").status_code == client.get("/flush_cache").status_code == 200
    frontend.running["r"] = frontend.prompts  # type: ignore[assignment]
    assert client.post("/flush_cache?timeout=0.1").status_code == 400
    assert client.post("/flush_cache?timeout=x").status_code == 400


def test_abort_request(client: TestClient, frontend: FakeFrontend) -> None:
    frontend.running |= dict.fromkeys(["a1", "a2", "b1"])  # type: ignore[arg-type]
    assert client.post("/abort_request", json={"rid": "a"}).status_code == 200
    assert frontend.aborted == ["a1", "a2"]
    assert client.post("/abort_request", json={"abort_all": True}).status_code == 200
    assert frontend.aborted == ["a1", "a2", "b1"]
    assert client.post("/abort_request", json={}).status_code == 400


def test_metrics_have_every_name(client: TestClient) -> None:
    generate(client, text=["ab", "c"], sampling_params={"max_new_tokens": 3})
    text = client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    expected = {"sgcore:" + name.removesuffix("_total") for name in NAMES}
    assert set(families) == expected
    samples = {sample.name: sample for family in families.values() for sample in family.samples}
    assert samples["sgcore:generation_tokens_total"].value == 6
    assert samples["sgcore:num_requests_total"].value == 2
    assert samples["sgcore:num_aborted_requests_total"].value == 0
    assert samples["sgcore:prompt_tokens_total"].value == 5
    assert samples["sgcore:time_to_first_token_seconds_count"].value == 2
    assert samples["sgcore:inter_token_latency_seconds_count"].value == 4
    assert samples["sgcore:token_usage"].value == 0.1
    assert samples["sgcore:num_queue_reqs"].labels == {"model_name": "fake"}


def test_metrics_prefix() -> None:
    client = TestClient(create_app(FakeFrontend(), ServerOptions(metrics_prefix="sglang:")))
    assert "sglang:num_running_reqs{" in client.get("/metrics").text


def test_loads_and_version(client: TestClient) -> None:
    assert client.get("/v1/loads").json()["loads"][0]["num_waiting_reqs"] == 2
    assert client.get("/version").json()["version"]


def test_observers_hear_of_finished_requests() -> None:
    from sgcore.server.app import build_app
    from sgcore.server.service import Service

    heard: list[Any] = []
    service = Service(ServerOptions(), FakeFrontend(), observer=heard.append)
    client = TestClient(build_app(service))
    generate(client, text="ab", sampling_params={"max_new_tokens": 3}, rid="r")
    (summary,) = heard
    assert summary["rid"] == "r" and summary["finish"] == "length" and summary["completion_tokens"] == 3


def test_a_long_stream_of_logprobs_is_sent_in_growing_steps(client: TestClient, frontend: FakeFrontend) -> None:
    body = {"text": "a", "return_logprob": True, "top_logprobs_num": 3, "sampling_params": {"max_new_tokens": 3000}}
    frontend.limit = 3000
    sent = events(client, **body)
    lengths = [len(event["output_ids"]) for event in sent]
    assert lengths[:900] == list(range(1, 901)) and lengths[-1] == 3000 and len(lengths) < 1500
    assert len(sent[-1]["meta_info"]["output_top_logprobs"]) == 3000


LARGE = {"max_new_tokens": 2500}


@pytest.mark.parametrize(
    "path, body",
    [
        ("/generate", {"text": "a", "return_logprob": True, "top_logprobs_num": 3, "sampling_params": LARGE}),
        ("/v1/completions", {"prompt": "a", "logprobs": 3, "max_tokens": 2500}),
        ("/v1/chat/completions", {"messages": HELLO, "logprobs": True, "top_logprobs": 3, "max_tokens": 2500}),
    ],
)
def test_a_large_reply_is_written_off_the_loop(
    client: TestClient, frontend: FakeFrontend, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    """Entries of log-probabilities count, not the text alone."""
    frontend.limit = 2500
    sizes = []
    off_loop = Service.off_loop

    async def noted(service: Service, chars: int, call: Any, *args: Any) -> Any:
        sizes.append(chars)
        return await off_loop(service, chars, call, *args)

    monkeypatch.setattr(Service, "off_loop", noted)
    assert client.post(path, json=body).status_code == 200
    assert max(sizes) >= 10_000
