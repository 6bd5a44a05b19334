"""Ways to run a program, on a scripted backend: batches, streams, coroutines, traces; and how it scales."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import threading
import time

import httpx2
import psutil
import pytest

import sgcore_lang as sgl
from sgcore.lang import Generated, Score
from sgcore_lang.backend import Reply

SAMPLING = (
    "max_new_tokens n stop stop_token_ids stop_regex temperature top_p top_k min_p frequency_penalty presence_penalty "
    "ignore_eos return_logprob logprob_start_len top_logprobs_num return_text_in_logprobs"
).split()
GEN = (
    "name max_tokens min_tokens n stop stop_token_ids stop_regex temperature top_p top_k min_p frequency_penalty "
    "presence_penalty ignore_eos return_logprob logprob_start_len top_logprobs_num return_text_in_logprobs dtype "
    "choices choices_method regex json_schema"
).split()


def echo(text, request):
    return request.choices[-1] if isinstance(request, Score) else f"<{text[-3:]}>"


@pytest.fixture
def backend():
    return sgl.Scripted(echo)


@sgl.function
def one(s, question, end="."):
    s += question + sgl.gen("x") + end


@sgl.function
async def one_async(s, question):
    s += question + sgl.gen("x")
    return await s["x"]


# -- the surface -------------------------------------------------------------------------------------------------


def test_names_and_signatures_are_sglangs():
    from sgcore_lang.sampling import RUN_DEFAULTS

    assert list(inspect.signature(sgl.gen).parameters) == GEN
    assert set(SAMPLING) <= set(RUN_DEFAULTS)
    assert list(inspect.signature(sgl.select).parameters) == ["name", "choices", "temperature", "choices_method"]
    for word in "gen_int gen_string image video system_begin user_end separate_reasoning Runtime Engine OpenAI".split():
        assert callable(getattr(sgl, word)), word
    assert sgl.token_length_normalized == "token_length_normalized"
    assert {"gen", "select", "image", "function", "RuntimeEndpoint"} <= set(dir(sgl))


def test_the_first_parameter_is_s():
    with pytest.raises(TypeError, match="must be named s"):
        sgl.function(lambda state: None)


def test_a_call_is_a_run_and_bound_arguments_win(backend):
    sgl.set_default_backend(backend)

    @sgl.function(num_api_spec_tokens=8)
    def two(s, a, b):
        s += a + b

    bound = two.bind(b="B")
    assert bound.num_api_spec_tokens == 8
    assert two("a", "b").text() == "ab"
    assert bound.run("a").text() == bound.run(a="a", b="ignored").text() == "aB"
    with pytest.raises(TypeError, match="no parameter 'c'"):
        two.bind(c=1)


def test_a_function_may_have_an_argument_named_like_a_parameter_of_sampling(backend):
    @sgl.function
    def named(s, temperature):
        s += temperature

    assert named.run(temperature="hot", backend=backend).text() == "hot"


def test_without_a_backend_it_says_how_to_give_one(monkeypatch):
    monkeypatch.setattr(sgl.global_config, "default_backend", None)
    with pytest.raises(ValueError, match="set_default_backend"):
        one.run("a")
    with pytest.raises(TypeError, match="got str"):
        sgl.set_default_backend("http://somewhere")


# -- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [one, one_async], ids=["sync", "async"])
def test_a_batch_is_in_order_and_bounded(program):
    backend = sgl.Scripted(echo, delay_s=0.02)
    states = program.run_batch([{"question": f"{n:03}"} for n in range(40)], backend=backend, num_threads=4)
    assert [state["x"] for state in states] == [f"<{n:03}>" for n in range(40)]
    assert backend.most_running == 4


def test_a_batch_of_tuples(backend):
    states = one.run_batch([("a",), ("b", "!")], backend=backend)
    assert [state.text() for state in states] == ["a<a>.", "b<b>!"]
    with pytest.raises(ValueError, match=r"takes \(question, end\)"):
        one.run_batch([("a", "b", "c")], backend=backend)


def test_a_batch_as_a_generator_starts_no_more_than_is_wanted():
    backend = sgl.Scripted(echo)
    states = one.run_batch(
        ({"question": f"{n}"} for n in range(1000)), backend=backend, num_threads=2, generator_style=True
    )
    assert next(states)["x"] == "<0>"
    states.close()
    assert backend.requests < 50


def test_a_batch_shows_its_progress(backend, capsys):
    one.run_batch([("a",)] * 3, backend=backend, progress_bar=True)
    assert "3/3" in capsys.readouterr().err


def test_one_failing_run_of_a_batch_leaves_the_others(backend):
    picky = sgl.Scripted({"a": "1", "c": "3"})
    states = one.run_batch([("a",), ("b",), ("c",)], backend=picky)
    assert states[0]["x"] == "1" and states[2]["x"] == "3"
    with pytest.raises(sgl.ProgramError):
        states[1]["x"]


def test_a_batch_computes_the_constant_beginning_once_and_pins_it(backend):
    beginning = "Shots: " * 20

    @sgl.function
    def shots(s, question):
        s += beginning
        s += "Q: " + question + sgl.gen("x")

    states = shots.run_batch([("a",), ("b",)], backend=backend)
    first = backend.calls[0]
    assert first.pieces == [beginning, "Q: "] and first.group[1] == 2
    assert [state["x"] for state in states] == ["<: a>", "<: b>"]
    deadline = time.monotonic() + 5
    while backend.pinned and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not backend.pinned


# -- streams -----------------------------------------------------------------------------------------------------


def test_a_stream_by_variable_and_of_everything():
    backend = sgl.Scripted(["one", "two"], delay_s=0.05)

    @sgl.function
    def program(s):
        s += "a" + sgl.gen("x")
        s += "b" + sgl.gen("y")

    state = program.run(backend=backend, stream=True)
    deltas = list(state.text_iter("y"))
    assert "".join(deltas) == "two" and len(deltas) > 1
    assert "".join(state.text_iter()) == state.text() == "aonebtwo"


def test_a_stream_waits_for_a_variable_that_comes_later():
    @sgl.function
    def program(s):
        time.sleep(0.1)
        s += "a" + sgl.gen("x")
        if s["x"]:
            s += sgl.gen("y")

    state = program.run(backend=sgl.Scripted(["one", "two"]), stream=True)
    assert "".join(state.text_iter("y")) == "two"
    assert list(state.text_iter("missing")) == []


def test_a_state_that_is_no_stream_gives_its_value_at_once(backend):
    assert list(one.run("a", backend=backend).text_iter("x")) == ["<a>"]


def test_an_error_is_raised_in_the_stream():
    state = one.run("a", backend=sgl.Scripted([]), stream=True)
    with pytest.raises(sgl.ProgramError, match="no answer"):
        list(state.text_iter("x"))


def test_what_the_body_of_a_stream_raises_is_raised_at_the_read(backend):
    @sgl.function
    def broken(s):
        s += "a"
        raise ZeroDivisionError("mine")

    for _ in range(50):  # the body may end before, while and after its first statement is worked off
        with pytest.raises(sgl.ProgramError, match="mine"):
            list(broken.run(backend=backend, stream=True).text_iter("x"))


async def test_a_stream_for_coroutines(backend):
    is_read = threading.Event()

    class InTwoSteps(sgl.Backend):
        async def run(self, call, progress=None):
            progress(1, "<", {"completion_tokens": 1})
            await asyncio.to_thread(is_read.wait, 30)
            return Reply([Generated("<a>", ("<a>",), {"completion_tokens": 3})])

    pairs = []
    async for pair in one.run("a", backend=InTwoSteps(), stream=True).text_async_iter("x", return_meta_data=True):
        pairs.append(pair)
        is_read.set()
    assert pairs == [("<", {"completion_tokens": 1}), ("a>", {"completion_tokens": 3})]
    state = one.run("a", backend=backend, stream=True)
    assert "".join([text async for text in state.text_async_iter(return_meta_data=True)]) == "a<a>."


def test_a_servers_stream_may_have_any_character():
    text = "one\u2028two\u0085three\u2029end"
    grown = {"piece": 0, "text": text[:4], "meta_info": {"completion_tokens": 1}}
    meta = {"finish_reason": {"type": "stop"}, "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 4}
    whole = {"pieces": [{"text": text, "meta_info": meta}], "input_ids": [1], "meta_info": meta}
    events = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in (grown, whole))

    def answer(request):
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=f"{events}data: [DONE]\n\n")

    server = sgl.RuntimeEndpoint("http://somewhere")
    server._client = httpx2.AsyncClient(base_url=server.base_url, transport=httpx2.MockTransport(answer))

    @sgl.function
    def ask(s):
        s += sgl.gen("x")

    assert "".join(ask.run(backend=server, stream=True).text_iter("x")) == text


# -- settings of the process -------------------------------------------------------------------------------------


def test_global_config_is_read_where_sglangs_is(backend, monkeypatch, capsys):
    monkeypatch.setattr(sgl.global_config, "default_backend", backend)
    one.run("a").sync()
    assert "skip_special_tokens" not in backend.calls[-1].pieces[-1].params and capsys.readouterr().out == ""
    monkeypatch.setattr(sgl.global_config, "skip_special_tokens_in_output", False)
    monkeypatch.setattr(sgl.global_config, "spaces_between_special_tokens_in_out", False)
    monkeypatch.setattr(sgl.global_config, "verbosity", 2)
    one.run("a").sync()
    params = backend.calls[-1].pieces[-1].params
    assert (params["skip_special_tokens"], params["spaces_between_special_tokens"]) == (False, False)
    assert capsys.readouterr().out == "a<a>.\n"
    with pytest.raises(AttributeError):
        sgl.global_config.verbose = 1


def test_global_config_can_leave_the_beginning_of_a_batch_alone(backend, monkeypatch):
    @sgl.function
    def long(s, question):
        s += "A beginning that is long enough to be computed ahead of all the runs. " + question + sgl.gen("x")

    monkeypatch.setattr(sgl.global_config, "enable_precache_with_tracing", False)
    long.run_batch([("a",), ("b",)], backend=backend)
    assert backend.requests == 2


# -- coroutines --------------------------------------------------------------------------------------------------


async def test_runs_are_awaited_from_any_loop(backend):
    state = await one.run_async("a", backend=backend)
    assert await state["x"] == "<a>" and await state.text() == "a<a>."
    assert (await one_async.run_async("b", backend=backend)).ret_value == "<b>"


async def test_a_cancelled_coroutine_leaves_no_request_behind():
    slow = sgl.Scripted(echo, delay_s=30)
    task = asyncio.create_task(one_async.run_async("a", backend=slow))
    while not slow.running:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while slow.running:
        await asyncio.sleep(0.01)


def test_an_async_body_reads_and_forks(backend):
    @sgl.function
    async def program(s):
        s += "R" + sgl.gen("a")
        forks = s.fork(2)
        forks += lambda place: f"{place}" + sgl.gen("x")
        forks.join()
        assert await s.has_var("x") and not await s.has_var("y")
        return await s["a"], await s["x"], await s.messages()

    assert program.run(backend=backend).ret_value == ("<R>", ["<R>0>", "<R>1>"], [])


def test_a_blocking_read_in_an_async_body_says_what_to_do(backend):
    @sgl.function
    async def program(s):
        one.run("a", backend=backend).text()

    with pytest.raises(RuntimeError, match="write `await`"):
        program.run(backend=backend)


# -- traces ------------------------------------------------------------------------------------------------------


@sgl.function
def traced(s, question, deep=False):
    s += sgl.system("be brief")
    s += sgl.user("Q: " + question)
    s += sgl.assistant(sgl.gen("x"))
    forks = s.fork(2)
    forks += "more " + s["x"]
    forks.join()


def test_a_trace_records_without_asking(backend, capsys):
    trace = traced.trace(backend=backend)
    assert [type(node).__name__ for node in trace.nodes] == ["Role", "Role", "Role", "TracerGroup"]
    assert len(trace.flatten()) == 8
    trace.print_graph_dfs()
    assert "fork 1:" in capsys.readouterr().out
    assert backend.requests == 0


def test_an_argument_in_an_f_string_says_what_to_do():
    @sgl.function
    def formatted(s, question):
        s += f"Q: {question}"

    with pytest.raises(TypeError, match=r"with \+ instead"):
        formatted.trace()


def test_cache_computes_the_constant_beginning(backend):
    traced.cache(backend)
    (call,) = backend.calls
    assert "".join(piece for piece in call.pieces if isinstance(piece, str)) == "SYSTEM:be brief\nUSER:Q: "
    assert call.pieces[-1].params["max_new_tokens"] == 0


# -- scale -------------------------------------------------------------------------------------------------------


def test_ten_thousand_forked_states_at_once_without_a_thread_each():
    backend = sgl.Scripted(echo, delay_s=1.0)
    threads = threading.active_count()

    @sgl.function
    async def wide(s):
        s += "R"
        forks = s.fork(10_000)
        forks += lambda place: f"{place}:" + sgl.gen("x")
        forks.join()
        return await s["x"]

    values = wide.run(backend=backend).ret_value
    assert len(values) == 10_000 and values[9_999] == "<99:>"
    assert backend.most_running == 10_000 and backend.requests == 10_001
    assert threading.active_count() <= threads + 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_is_flat_over_a_hundred_thousand_gens():
    backend = sgl.Scripted(lambda text, request: "x")

    @sgl.function
    async def many(s, gens):
        s += "R"
        for _ in range(gens // 4):
            forks = s.fork(4)
            forks += sgl.gen("x")
            forks.join()
            assert len(await s["x"]) == 4

    def resident_bytes():
        gc.collect()
        return psutil.Process().memory_info().rss

    for _ in range(3):
        many.run(4_000, backend=backend)
    before = resident_bytes()
    for _ in range(25):
        many.run(4_000, backend=backend)
    assert backend.requests >= 112_000
    assert resident_bytes() - before < 8_000_000
