"""What a program's state does, on a scripted backend: every row of the language's semantics."""

from __future__ import annotations

import inspect
import threading
import time

import pytest

import sgcore_lang as sgl
from sgcore.lang import Generate, Score
from sgcore_lang.backend import Turns
from sgcore_lang.errors import Cancelled

TURNS = Turns(
    start={"system": "<s>", "user": "<s>SYS\n", "assistant": "<s>"},
    roles={"system": ("[sys]", "\n"), "user": ("[user]", "\n"), "assistant": ("[bot]", "\n")},
    stop_token_ids=[7],
)


def echo(text, request):
    """The last three characters, so that an answer tells what it was asked behind."""
    return request.choices[-1] if isinstance(request, Score) else f"<{text[-3:]}>"


@pytest.fixture
def backend():
    return sgl.Scripted(echo)


def run(body, backend, *args, **options):
    return sgl.function(body).run(*args, backend=backend, **options)


def pieces_of(call):
    return [piece if isinstance(piece, str) else type(piece).__name__ for piece in call.pieces]


# -- laziness and requests ---------------------------------------------------------------------------------------


def test_a_run_of_constants_and_gens_is_one_request(backend):
    def body(s):
        for name in "abcde":
            s += f" {name}:" + sgl.gen(name)
        s += sgl.select("f", ["x", "y"]) + " end"

    state = run(body, backend)
    assert [state[name] for name in "abcdef"] == ["< a:>", "< b:>", "< c:>", "< d:>", "< e:>", "y"]
    assert state.text() == " a:< a:> b:< b:> c:< c:> d:< d:> e:< e:>y end"
    assert backend.requests == state.usage["requests"] == 1


@pytest.fixture
def held():
    """A backend that answers once it may."""
    may_answer = threading.Event()

    def answer(text, request):
        assert may_answer.wait(60)
        return "one"

    backend = sgl.Scripted(answer)
    backend.may_answer = may_answer
    yield backend
    may_answer.set()


def test_adding_returns_at_once_and_a_read_waits(held):
    def body(s):
        s += "a" + sgl.gen("x")
        assert held.requests == 0
        threading.Timer(0.1, held.may_answer.set).start()
        return s["x"], held.may_answer.is_set()

    assert run(body, held).ret_value == ("one", True)


def test_run_returns_when_the_body_ends(held):
    def body(s):
        s += "a" + sgl.gen("x")

    state = run(body, held)
    assert not held.may_answer.is_set()
    held.may_answer.set()
    assert state["x"] == "one"


def test_constants_alone_need_no_request(backend):
    def body(s):
        s += "a"
        s += "b"
        assert s.text() == "ab"

    run(body, backend).sync()
    assert backend.requests == 0


def test_a_read_asks_for_everything_so_far_and_tokens_are_not_sent_as_text_again(backend):
    def body(s):
        s += "a" + sgl.gen("x")
        assert s["x"] == "<a>"
        s += "b" + sgl.gen("y")

    run(body, backend).sync()
    first, second = backend.calls
    assert first.ids is None and pieces_of(first) == ["a", "Generate"]
    assert bytes(second.ids) == b"a<a>" and pieces_of(second) == ["b", "Generate"]


def test_a_backend_without_programs_is_asked_once_for_each(backend):
    backend.takes_programs = False

    def body(s):
        s += "a" + sgl.gen("x") + "b" + sgl.gen("y")

    assert run(body, backend).text() == "a<a>b<a>b>"
    assert [pieces_of(call) for call in backend.calls] == [["a", "Generate"], ["b", "Generate"]]


# -- variables ---------------------------------------------------------------------------------------------------


def test_reading_what_no_statement_sets_is_a_key_error(backend):
    def body(s):
        s += "a"
        with pytest.raises(KeyError):
            s["x"]

    run(body, backend)


def test_in_waits(backend):
    def body(s):
        s += "a" + sgl.gen("x")
        assert "x" in s and "y" not in s

    run(body, backend)


def test_a_name_used_again_has_its_newest_value(backend):
    def body(s):
        s += "a" + sgl.gen("x")
        s += "b" + sgl.gen("x")
        return s["x"]

    assert run(body, backend).ret_value == "<a>b>"


def test_variables_can_be_set_and_read_by_none(backend):
    def body(s):
        s["x"] = 5
        s.set_var("y", [1])
        s += "a" + sgl.gen()
        return s["x"], s.get_var("y"), s[None]

    assert run(body, backend).ret_value == (5, [1], "<a>")


def test_several_samples_are_a_list_and_the_text_goes_on_with_the_first():
    backend = sgl.Scripted(["one", "two", "three"])

    def body(s):
        s += "a" + sgl.gen("x", n=3) + "b"

    state = run(body, backend)
    assert state["x"] == ["one", "two", "three"] and state.text() == "aoneb"


def test_information_about_a_generation(backend):
    def body(s):
        s += "a" + sgl.gen("x")

    assert run(body, backend).get_meta_info("x") == {"finish_reason": {"type": "stop", "matched": None}}


def test_var_scope_is_what_the_block_adds(backend):
    def body(s):
        s += "a"
        with s.var_scope("v"):
            s += "b" + sgl.gen("x") + "c"
        s += "d" + sgl.gen("y")
        return s["v"]

    assert run(body, backend).ret_value == "b<ab>c"


# -- sampling ----------------------------------------------------------------------------------------------------


def test_a_gens_own_parameters_win_over_the_runs(backend):
    def body(s):
        s += sgl.gen("x", temperature=0.5, stop="!") + sgl.gen("y")

    run(body, backend, max_new_tokens=7, temperature=0.2, stop=["#"]).sync()
    first, second = (piece.params for piece in backend.calls[0].pieces)
    assert (first["temperature"], first["stop"], first["max_new_tokens"]) == (0.5, ["!"], 7)
    assert (second["temperature"], second["stop"], second["top_k"]) == (0.2, ["#"], -1)


def test_lists_of_the_user_are_never_changed():
    backend = sgl.Scripted(echo, turns=TURNS)
    stop, ids = ["!"], [1]
    word = sgl.gen("x", stop=stop, stop_token_ids=ids)

    def body(s):
        s += "a"
        forks = s.fork(3)
        forks += sgl.assistant_begin()
        forks += word
        forks.join()

    run(body, backend, stop_token_ids=ids).sync()
    asked = [piece for call in backend.calls for piece in call.pieces if isinstance(piece, Generate)]
    assert [piece.params["stop_token_ids"] for piece in asked] == [[1, 7]] * 3
    assert (stop, ids) == (["!"], [1])


# -- errors ------------------------------------------------------------------------------------------------------


def failing_line():
    return inspect.currentframe().f_back.f_lineno + 1


def test_a_read_raises_the_workers_error_with_the_line_that_caused_it():
    backend = sgl.Scripted(["one"])
    lines = []

    def body(s):
        s += "a" + sgl.gen("x")
        lines.append(failing_line())
        s += "b" + sgl.gen("y")
        s += "c" + sgl.gen("z")

    state = run(body, backend)
    assert state["x"] == "one"
    for read in (lambda: state["y"], lambda: state["z"], state.text, state.messages):
        with pytest.raises(sgl.ProgramError, match="no answer left") as raised:
            read()
        assert (raised.value.where.file, raised.value.where.line) == (__file__, lines[0])
        assert f'{__file__}:{lines[0]}: s += "b" + sgl.gen("y")' in str(raised.value)
        assert isinstance(raised.value.__cause__, sgl.BackendError)
    assert isinstance(state.error(), sgl.ProgramError) and "y" not in state


def test_after_an_error_nothing_more_is_asked():
    backend = sgl.Scripted([])

    def body(s):
        s += "a" + sgl.gen("x")
        s.sync()
        s += "b" + sgl.gen("y")

    with pytest.raises(sgl.ProgramError):
        run(body, backend)["y"]
    assert backend.requests == 1


def test_what_the_body_raises_is_raised_and_ends_what_runs():
    slow = sgl.Scripted(["one"], delay_s=30)
    states = []

    def body(s):
        states.append(s)
        s += "a" + sgl.gen("x")
        s.executor.start()
        while not slow.running:
            time.sleep(0.01)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError):
        run(body, slow)
    with pytest.raises(sgl.ProgramError, match="mine"):
        states[0]["x"]
    wait_until(lambda: slow.running == 0)


def test_a_cancelled_program_leaves_no_request_behind():
    class Slow(sgl.Scripted):
        """A prefix is computed at once, a generation never ends."""

        async def run(self, call, progress=None):
            self._delay_s = 30 if any(hasattr(piece, "params") for piece in call.pieces) else 0.0
            return await super().run(call, progress)

    slow = Slow(echo)

    def body(s):
        s += "a"
        forks = s.fork(5)
        forks += sgl.gen("x")
        for fork in forks:
            fork.executor.start()
        s += sgl.gen("y")

    state = run(body, slow)
    wait_until(lambda: slow.running >= 5)
    state.cancel()
    wait_until(lambda: slow.running == 0)
    assert isinstance(state.error().reason, Cancelled)
    wait_until(lambda: not slow.pinned)


def test_none_is_no_text(backend):
    def body(s):
        s += None

    with pytest.raises(ValueError, match="None"):
        run(body, backend)


def test_a_word_that_yields_nonsense_is_named(backend):
    class Odd(sgl_primitive()):
        def run(self, state):
            yield 5

    def body(s):
        s += Odd()

    with pytest.raises(sgl.ProgramError, match="yielded 5"):
        run(body, backend).text()


def sgl_primitive():
    from sgcore.api import Primitive

    return Primitive


def wait_until(is_so, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- roles -------------------------------------------------------------------------------------------------------


def test_turns_are_the_servers_template():
    backend = sgl.Scripted(echo, turns=TURNS)

    def body(s):
        s += sgl.system("be brief")
        with s.user():
            s += "hi "
            s += "there"
        s.assistant(sgl.gen("x"))

    state = run(body, backend)
    assert state.text() == "<s>[sys]be brief\n[user]hi there\n[bot]<ot]>\n"
    assert state.messages() == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi there"},
        {"role": "assistant", "content": "<ot]>"},
    ]


def test_a_default_system_turn_comes_first():
    def body(s):
        s += sgl.user("hi")

    assert run(body, sgl.Scripted(echo, turns=TURNS)).text() == "<s>SYS\n[user]hi\n"


def test_roles_do_not_nest(backend):
    def body(s):
        with s.user():
            s += sgl.assistant("no")

    with pytest.raises(sgl.ProgramError, match="don't nest"):
        run(body, backend).text()


def test_an_unknown_role_says_which_there_are():
    turns = Turns(roles={"user": ("[u]", "\n"), "assistant": ("[a]", "\n")}, start={})

    def body(s):
        s += sgl.system("x")

    with pytest.raises(sgl.ProgramError, match="no role 'system'; it has user, assistant"):
        run(body, sgl.Scripted(echo, turns=turns)).text()


def test_a_template_that_is_not_turn_by_turn_is_rendered_by_the_server_for_each_gen():
    backend = sgl.Scripted(echo, turns=Turns(False, "of a reason"))

    def body(s):
        s += sgl.user("hi")
        s += sgl.assistant("Well, " + sgl.gen("x"))
        s += sgl.user("so")
        s += sgl.assistant(sgl.gen("y"))

    state = run(body, backend)
    assert (state["x"], state["y"]) == ("<l, >", "<t] >")
    first, second = backend.calls
    assert bytes(first.ids) == b"[user] hi\n[assistant] Well, "
    assert bytes(second.ids) == b"[user] hi\n[assistant] Well, <l, >\n[user] so\n[assistant] "


# -- fork and join -----------------------------------------------------------------------------------------------


def test_fork_computes_the_prefix_once_and_pins_it_until_join(backend):
    seen = []

    def body(s):
        s += "Root"
        forks = s.fork(3)
        forks += lambda place: f" {place}:" + sgl.gen("x")
        assert [fork["x"] for fork in forks] == ["< 0:>", "< 1:>", "< 2:>"]
        seen.append(set(backend.pinned))
        forks.join()
        return s["x"]

    state = run(body, backend)
    assert state.ret_value == ["< 0:>", "< 1:>", "< 2:>"] and state.text() == "Root"
    commit, *children = backend.calls
    assert commit.group[1] == 3 and pieces_of(commit) == ["Root"]
    assert all(bytes(call.ids) == b"Root" for call in children) and len(children) == 3
    assert seen == [{commit.group[0]}] and not backend.pinned


def test_without_hints_there_is_no_commit(backend):
    def body(s):
        s += "Root"
        forks = s.fork(2)
        forks += sgl.gen("x")
        forks.join()

    run(body, backend, hints=False).sync()
    assert [call.group for call in backend.calls] == [None, None]


def test_what_forks_add(backend):
    def body(s):
        s += "R"
        forks = s.fork(2)
        forks += "same "
        forks += ["one", sgl.gen("x")]
        forks += lambda place: str(place)
        return [fork.text() for fork in forks]

    assert run(body, backend).ret_value == ["Rsame one0", "Rsame <me >1"]


def test_one_fork_is_added_to_in_place(backend):
    def body(s):
        forks = s.fork(2)
        for place in range(2):
            forks[place] += f"{place}" + sgl.gen("x")
        with pytest.raises(TypeError, match="can't be replaced"):
            forks[0] = forks[1]
        forks.join("concate_and_append")

    assert run(body, backend).text() == "0<0>1<1>"


def test_forks_know_what_the_parent_knew(backend):
    def body(s):
        s += "R" + sgl.gen("a")
        fork = s.fork(1)[0]
        return fork["a"], fork.get_meta_info("a")["finish_reason"]["type"]

    assert run(body, backend).ret_value == ("<R>", "stop")


def test_join_gathers_what_is_new_in_order(backend):
    def body(s):
        s["old"] = 1
        forks = s.fork(2)
        for place, fork in enumerate(forks):
            fork["new"] = place
        forks[1]["one"] = 5
        forks.join()
        return s["old"], s["new"], s["one"]

    assert run(body, backend).ret_value == (1, [0, 1], [None, 5])


def test_join_appends_in_order_and_keeps_tokens(backend):
    def body(s):
        s += "R"
        forks = s.fork(2)
        forks += lambda place: f"{place}" + sgl.gen("x")
        forks.join("concate_and_append")
        s += "!" + sgl.gen("y")

    state = run(body, backend)
    assert state.text() == "R0<R0>1<R1>!<1>!>"
    assert bytes(backend.calls[-1].ids) == b"R0<R0>1<R1>"


def test_copy_is_a_fork_that_is_joined_at_the_end(backend):
    def body(s):
        s += "R"
        with s.copy() as c:
            c += "x" + sgl.gen("y")
        return s["y"]

    state = run(body, backend)
    assert state.ret_value == ["<Rx>"] and state.text() == "R"


def test_groups_are_checked(backend):
    def body(s):
        forks = s.fork(2)
        with pytest.raises(ValueError, match="3 entries for 2"):
            forks += ["a", "b", "c"]
        with pytest.raises(ValueError, match="gather_variable, concate_and_append"):
            forks.join("other")
        with pytest.raises(ValueError, match="at least one"):
            s.fork(0)
        forks.join()
        with pytest.raises(ValueError, match="already"):
            forks.join()

    run(body, backend)


def test_an_error_of_a_fork_is_raised_at_the_parents_read():
    backend = sgl.Scripted({"0": "fine"})
    lines = []

    def body(s):
        s += "R"
        forks = s.fork(2)
        forks[0].__iadd__("0" + sgl.gen("x"))
        lines.append(failing_line())
        forks[1].__iadd__("1" + sgl.gen("x"))
        forks.join()

    state = run(body, backend)
    with pytest.raises(sgl.ProgramError, match="no answer") as raised:
        state["x"]
    assert raised.value.where.line == lines[0]


def test_a_fork_is_read_before_it_begins():
    slow = sgl.Scripted(echo, delay_s=0.2)

    def body(s):
        s += "R" + sgl.gen("a")
        return s.fork(2)[1]["a"]

    assert run(body, slow).ret_value == "<R>"


@pytest.mark.parametrize("has_failed", [False, True])
def test_forks_of_a_failed_state_fail(has_failed):
    def body(s):
        s += "a" + sgl.gen("x")
        if has_failed:
            s.sync()
        return s.fork(2)

    forks = run(body, sgl.Scripted([])).ret_value
    with pytest.raises(sgl.ProgramError, match="no answer"):
        forks[0]["y"]


def test_pins_are_let_go_when_the_program_ends_without_a_join(backend):
    def body(s):
        s += "R"
        forks = s.fork(2)
        forks += sgl.gen("x")
        return forks[0]["x"]

    state = run(body, backend)
    state.sync()
    wait_until(lambda: not backend.pinned)


def test_separate_reasoning_goes_on_behind_the_answer_alone():
    backend = sgl.Scripted({"Q": "<think>hm</think>yes", "yes!": "done"})

    def body(s):
        s += "Q" + sgl.separate_reasoning(sgl.gen("x"), model_type="qwen3")
        s += "!" + sgl.gen("y")

    state = run(body, backend)
    assert (state["x"], state["x_reasoning_content"], state["y"]) == ("yes", "hm", "done")
    assert state.text() == "Qyes!done"


def test_text_added_on_another_thread_keeps_its_order(backend):
    def body(s):
        def add():
            for place in range(100):
                s.__iadd__(f"{place},")

        thread = threading.Thread(target=add)
        thread.start()
        thread.join()

    assert run(body, backend).text() == "".join(f"{place}," for place in range(100))
