"""The core's words, without a server."""

from __future__ import annotations

import json
import warnings

import msgspec
import pydantic
import pytest

import sgcore_lang as sgl
from sgcore.lang import Append, Assign, BeginTurn, Capture, EndTurn, Generate, Generated, Mark, Rewind, Score
from sgcore.testing.primitives import Drive, PrimitiveSuite, usual_answer


class TestGen(PrimitiveSuite):
    word = "gen"
    examples = (
        lambda word: word("x"),
        lambda word: word(),
        lambda word: word("x", max_tokens=3, stop=["a"], regex="[0-9]+", n=2, return_logprob=True),
        lambda word: word("x", choices=["a", "b"]),
    )


class TestGenInt(PrimitiveSuite):
    word = "gen_int"
    examples = (lambda word: word("x", max_tokens=4, stop="."),)


class TestGenString(PrimitiveSuite):
    word = "gen_string"
    examples = (lambda word: word("x"),)


class TestSeparateReasoning(PrimitiveSuite):
    word = "separate_reasoning"
    examples = (
        lambda word: word(sgl.gen("x"), "qwen3"),
        lambda word: word(sgl.gen("x", n=2) + "text", "deepseek-r1"),
    )


class Person(pydantic.BaseModel):
    name: str


class Place(msgspec.Struct):
    name: str


def sent(word):
    (request,) = Drive(word).requests
    assert isinstance(request, Capture)
    return request.request


def test_arguments_in_the_servers_words():
    word = sgl.gen("x", 5, min_tokens=1, stop="a", top_k=3, ignore_eos=False, return_logprob=True, top_logprobs_num=2)
    assert sent(word) == Generate(
        {"max_new_tokens": 5, "min_new_tokens": 1, "stop": ["a"], "top_k": 3, "ignore_eos": False},
        {"return_logprob": True, "top_logprobs_num": 2},
    )


def test_what_is_left_out_is_not_sent():
    assert sent(sgl.gen("x")) == Generate({}, {})


@pytest.mark.parametrize(
    ("dtype", "regex", "stop"),
    [
        (int, r"[-+]?[0-9]+[ \n]*", ["!", " ", "\n"]),
        ("float", r"[-+]?[0-9]*\.?[0-9]+[ \n]*", ["!", " ", "\n"]),
        (bool, "(True|False)", ["!"]),
        (str, r"\"[\w\d\s]*\"", ["!"]),
    ],
)
def test_dtype_is_a_regex_and_stops(dtype, regex, stop):
    given = ["!"]
    request = sent(sgl.gen("x", dtype=dtype, stop=given))
    assert request.params == {"regex": regex, "stop": stop}
    assert given == ["!"]


def test_typed_words():
    assert sent(sgl.gen_int("x")).params["regex"] == r"[-+]?[0-9]+[ \n]*"
    assert sent(sgl.gen_string("x", max_tokens=9)).params == {"max_new_tokens": 9, "regex": r"\"[\w\d\s]*\""}


def test_dtype_wins_over_regex_with_a_warning():
    with pytest.warns(UserWarning, match="dtype counts"):
        word = sgl.gen("x", dtype=bool, regex="a")
    assert sent(word).params == {"regex": "(True|False)"}


def test_schemas_of_every_kind():
    for schema in ('{"type": "string"}', {"type": "string"}):
        assert json.loads(sent(sgl.gen(json_schema=schema)).params["json_schema"]) == {"type": "string"}
    for kind in (Person, Place):
        schema = json.loads(sent(sgl.gen(json_schema=kind)).params["json_schema"])
        assert '"name"' in json.dumps(schema)


def test_a_regex_is_the_servers_to_judge():
    """Its syntax isn't Python's."""
    assert sent(sgl.gen(regex=r"\p{Lu}+")).params["regex"] == r"\p{Lu}+"


def test_bad_arguments_are_refused_at_the_call():
    with pytest.raises(ValueError):
        sgl.gen("x", json_schema="{")
    with pytest.raises(ValueError, match="dtype must be one of int, float, bool, str"):
        sgl.gen("x", dtype=list)


def test_choices_are_a_select():
    word = sgl.gen("x", choices=["a", "b"], choices_method=sgl.greedy_token_selection)
    assert sent(word) == Score(("a", "b"), "greedy_token_selection")
    with pytest.raises(ValueError, match="leave it 0"):
        sgl.gen("x", choices=["a"], temperature=1.0)


def test_the_users_lists_are_copied():
    stop, ids = ["a"], [1]
    word = sgl.gen("x", stop=stop, stop_token_ids=ids)
    stop.append("b")
    ids.append(2)
    assert sent(word).params == {"stop": ["a"], "stop_token_ids": [1]}


def test_turns():
    assert Drive(sgl.user("hi")).requests == [BeginTurn("user"), Append("hi"), EndTurn("user")]
    whole = sgl.assistant_begin() + "a" + sgl.gen("x") + sgl.assistant_end()
    assert [type(request) for request in Drive(whole).requests] == [BeginTurn, Append, Capture, EndTurn]
    assert Drive(sgl.system()).requests == [BeginTurn("system"), EndTurn("system")]


@pytest.mark.parametrize(
    ("kind", "said", "thoughts", "answer"),
    [
        ("qwen3", "<think>hm\n</think>\n\nyes", "hm", "yes"),
        ("qwen3", "no thoughts", "", "no thoughts"),
        ("deepseek-r1", "hm</think>yes", "hm", "yes"),
        ("deepseek-r1", "<think>unfinished", "unfinished", ""),
    ],
)
def test_thoughts_apart_from_the_answer(kind, said, thoughts, answer):
    def reply(request):
        return Generated(said, (said,), {"id": 1}) if isinstance(request, Generate) else usual_answer(request)

    asked = Drive(sgl.separate_reasoning(sgl.gen("x"), kind), reply).requests
    assert [type(request) for request in asked] == [Mark, Generate, Rewind, Append, Assign, Assign]
    assert asked[3:] == [
        Append(answer),
        Assign("x", answer, {"id": 1}),
        Assign("x_reasoning_content", thoughts),
    ]


def test_an_unknown_kind_of_model_is_named():
    with pytest.raises(ValueError, match="known: deepseek-r1"):
        sgl.separate_reasoning(sgl.gen("x"), "other")


def test_an_unknown_word_says_what_is_installed():
    with pytest.raises(AttributeError, match=r"'nothing'.*installed: .*gen.*select"):
        sgl.nothing


def test_import_is_free_of_torch():
    import subprocess
    import sys

    code = (
        "import sys, sgcore_lang as s; s.gen; s.select; s.image; s.RuntimeEndpoint; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_warning_without_a_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgl.gen("x", dtype=int)
