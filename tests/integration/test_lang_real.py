"""The language on the sample model: in process, through a real server, and through the server's OpenAI routes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

import sgcore_lang as sgl
from sgcore import Engine
from tests.integration.serving import MODEL, Server, needs_model

pytestmark = needs_model
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(model_path=str(MODEL), max_total_tokens=8192) as started:
        yield started


@pytest.fixture(params=["in process", "server"])
def backend(request: pytest.FixtureRequest) -> Any:
    if request.param == "server":
        return sgl.RuntimeEndpoint(request.getfixturevalue("server").url)
    return request.getfixturevalue("engine")


@sgl.function
def mixed(s, reads):
    s += "The capital of France is"
    for name, text in (("a", ". The capital of Italy is"), ("b", ". A"), ("c", ".")):
        s += sgl.gen(name, max_tokens=4, stop=".", temperature=0)
        if reads:
            s[name]
        s += text
    s += " Its largest city is " + sgl.select("d", choices=["Rome", "Oslo", "New York"])


def used_tokens(backend: Any) -> int:
    if isinstance(backend, Engine):
        return backend.frontend.command("stats").stats.used_tokens
    (state,) = sgl.get_server_info(backend)["internal_states"]
    return int(state["num_used_tokens"]) + int(state["num_running_reqs"]) + int(state["num_waiting_reqs"])


def wait_idle(backend: Any) -> None:
    deadline = time.monotonic() + 10
    while used_tokens(backend):
        assert time.monotonic() < deadline, "something is left running or pinned"
        time.sleep(0.1)


def test_a_program_in_one_request_has_the_tokens_of_the_same_step_by_step(backend: Any) -> None:
    at_once, by_steps = (mixed.run(reads, backend=backend) for reads in (False, True))
    assert at_once.text() == by_steps.text() and "Paris" in at_once["a"]
    assert at_once.executor.record.ids == by_steps.executor.record.ids
    assert (at_once.usage["requests"], by_steps.usage["requests"]) == (1, 4)


def test_pieces_have_the_tokens_of_plain_requests(engine: Engine) -> None:
    pieces = [{"gen": {"sampling_params": GREEDY}}, {"text": " and then"}, {"gen": {"sampling_params": GREEDY}}]
    answer = engine.generate("Once upon a time", pieces=pieces)
    ids = engine.tokenizer.encode("Once upon a time")
    first = engine.generate(input_ids=ids, sampling_params=GREEDY)["output_ids"]
    ids = ids + first + engine.tokenizer.encode(" and then")
    second = engine.generate(input_ids=ids, sampling_params=GREEDY)["output_ids"]
    assert answer["input_ids"] == ids + second
    assert [piece.get("output_ids") for piece in answer["pieces"]] == [first, None, second]
    streamed = list(engine.generate("Once upon a time", pieces=pieces, stream=True))
    assert streamed[-1]["input_ids"] == answer["input_ids"] and len(streamed) > 8


def test_choices_score_what_the_whole_text_scores(engine: Engine) -> None:
    """The tokens at a seam are those of the text without one, and their logprobs are the whole's."""
    text, choices = "The sky is often ", ["blue", "purple and green"]
    meta = engine.generate(text, pieces=[{"select": {"choices": choices}}])["pieces"][0]["meta_info"]
    for choice, rows in zip(choices, meta["input_token_logprobs"], strict=True):
        whole = engine.generate(text + choice, {"max_new_tokens": 0}, return_logprob=True, logprob_start_len=0)
        expected = whole["meta_info"]["input_token_logprobs"][-len(rows) :]
        assert [row[1] for row in rows] == [row[1] for row in expected]
        assert [row[0] for row in rows] == pytest.approx([row[0] for row in expected], abs=1e-2)
    assert [row[2] for row in meta["input_token_logprobs"][0]] == [" blue"]


def test_the_chat_template_is_the_servers(backend: Any) -> None:
    @sgl.function
    def chat(s):
        s += sgl.user("Say hi.")
        s += sgl.assistant(sgl.gen("a", max_tokens=4, temperature=0))
        s += sgl.user("Again.")
        s += sgl.assistant_begin()

    state = chat.run(backend=backend)
    text = state.text()
    assert state["a"] and "<|im_end|>" not in state["a"]
    if isinstance(backend, Engine):
        assert text == backend.tokenizer.apply_chat_template(state.messages()[:3])


def test_forks_compute_the_prefix_once_and_leave_nothing_behind(backend: Any) -> None:
    @sgl.function
    def forks(s):
        s += "A list of many words, which all the forks have in common: " + "red green blue " * 20
        group = s.fork(4)
        group += lambda place: f"\n{place}:" + sgl.gen("x", max_tokens=2, temperature=0)
        group.join()
        return s["x"]

    state = forks.run(backend=backend)
    assert len(state.ret_value) == 4
    assert state.usage["cached_tokens"] > 3 / 5 * state.usage["prompt_tokens"] - 16 * 5
    wait_idle(backend)


def test_a_cancelled_program_leaves_no_request_behind(backend: Any) -> None:
    @sgl.function
    def long(s):
        s += "Once upon a time"
        group = s.fork(3)
        group += sgl.gen("x", max_tokens=4000, ignore_eos=True)
        s += sgl.gen("y", max_tokens=4000, ignore_eos=True)
        for fork in group:
            fork.executor.start()

    state = long.run(backend=backend)
    deadline = time.monotonic() + 20
    while not used_tokens(backend) and time.monotonic() < deadline:
        time.sleep(0.05)
    state.cancel()
    wait_idle(backend)
    with pytest.raises(sgl.ProgramError, match="ended"):
        state["y"]


def test_a_refusal_names_the_line(backend: Any) -> None:
    @sgl.function
    def wrong(s):
        s += "a" + sgl.gen("x", top_p=7.0)

    with pytest.raises(sgl.ProgramError, match=r"(?s)top_p must be.*test_lang_real\.py.*top_p=7"):
        wrong.run(backend=backend)["x"]


def test_pictures_are_refused_clearly(backend: Any) -> None:
    @sgl.function
    def look(s):
        s += sgl.image(b"\x89PNG\r\n\x1a\n") + "What is this?" + sgl.gen("x")

    with pytest.raises(sgl.ProgramError, match="has no vision"):
        look.run(backend=backend)["x"]


def test_streams_by_variable(backend: Any) -> None:
    state = mixed.run(False, backend=backend, stream=True)
    assert "".join(state.text_iter("b")) == state["b"]


def test_an_unreachable_server_is_named() -> None:
    with pytest.raises(sgl.ProgramError, match=r"no answer from http://127\.0\.0\.1:9"):
        mixed.run(False, backend=sgl.RuntimeEndpoint("http://127.0.0.1:9"))["a"]


def test_flushing_and_information(server: Server) -> None:
    backend = sgl.RuntimeEndpoint(server.url)
    sgl.flush_cache(backend)
    assert sgl.get_server_info(backend)["served_model_name"] == "smol"
    turns = httpx2.get(f"{server.url}/model_info").json()["chat_turns"]
    assert turns["is_concatenative"] and turns["roles"]["user"] == ["<|im_start|>user\n", "<|im_end|>\n"]


# -- OpenAI's routes ---------------------------------------------------------------------------------------------


def test_completions(server: Server) -> None:
    backend = sgl.OpenAI("smol", is_chat_model=False, base_url=f"{server.url}/v1", api_key="none")
    through, direct = mixed.run(False, backend=backend), mixed.run(False, backend=sgl.RuntimeEndpoint(server.url))
    assert through["a"] == direct["a"] and through["d"] == direct["d"]
    assert through.usage["requests"] == 4


def test_chat(server: Server) -> None:
    backend = sgl.OpenAI("smol", base_url=f"{server.url}/v1", api_key="none")

    @sgl.function
    def chat(s):
        for name in "ab":
            s += sgl.user("Say hi.")
            s += sgl.assistant(sgl.gen(name, max_tokens=4, temperature=0))

    through, direct = chat.run(backend=backend), chat.run(backend=sgl.RuntimeEndpoint(server.url))
    assert (through["a"], through["b"]) == (direct["a"], direct["b"])
    assert "".join(chat.run(backend=backend, stream=True).text_iter("b")) == through["b"]


@pytest.mark.parametrize(
    ("word", "is_chat", "message"),
    [
        (lambda: sgl.gen("x"), True, "only answers"),
        (lambda: sgl.assistant("It is " + sgl.gen("x")), True, "begins its turn itself"),
        (lambda: sgl.assistant(sgl.select("x", ["a"])), True, "select: a chat server"),
        (lambda: sgl.gen("x", regex="a+"), False, "regex: OpenAI's protocol"),
        (lambda: sgl.gen("x", min_tokens=4), False, "min_new_tokens: OpenAI's protocol"),
    ],
)
def test_what_the_protocol_cannot_say_is_named(server: Server, word: Any, is_chat: bool, message: str) -> None:
    backend = sgl.OpenAI("smol", is_chat, base_url=f"{server.url}/v1", api_key="none")

    @sgl.function
    def ask(s):
        s += sgl.user("a") if is_chat else "a"
        s += word()

    with pytest.raises(sgl.ProgramError, match=message):
        ask.run(backend=backend)["x"]


def test_choices_of_one_token_are_scored_alone(engine: Engine) -> None:
    piece = {"select": {"choices": ["yes", "no"], "method": "unconditional_likelihood_normalized"}}
    meta = engine.generate("Is it?\n", pieces=[piece])["pieces"][0]["meta_info"]
    assert [row[0][0] for row in meta["unconditional_token_logprobs"]] == [0.0, 0.0]
    assert [row[0][2] for row in meta["unconditional_token_logprobs"]] == ["yes", "no"]
