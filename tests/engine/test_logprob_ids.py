"""Log-probabilities of tokens that are asked for by id, of prompts and of outputs."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from sgcore import Engine
from sgcore.config import ServerOptions
from sgcore.errors import RequestError
from sgcore.server.app import create_app
from tests.constraints.conftest import MODEL_VOCABULARY, engine, folder, open_engine  # noqa: F401

PROMPT = "The licence is"
PARAMS = {"max_new_tokens": 6, "temperature": 0.0, "ignore_eos": True}
EVERY = {"return_logprob": True, "logprob_start_len": 0}


def rows(engine: Engine, **asked: Any) -> dict[str, Any]:  # noqa: F811
    meta: dict[str, Any] = engine.generate(PROMPT, PARAMS, **EVERY, **asked)["meta_info"]
    return meta


def test_they_are_those_of_the_whole_distribution(engine: Engine) -> None:  # noqa: F811
    asked = [5, 400, 7, 599]
    wanted = {
        key: [
            row and dict((token, logprob) for logprob, token, _ in row)
            for row in rows(engine, top_logprobs_num=256)[key]
        ]
        for key in ("input_top_logprobs", "output_top_logprobs")
    }
    found = rows(engine, token_ids_logprob=asked)
    assert "input_top_logprobs" not in found
    assert found["input_token_ids_logprobs"][0] is None
    compared = 0
    for side in ("input", "output"):
        for all_rows, mine in zip(wanted[f"{side}_top_logprobs"], found[f"{side}_token_ids_logprobs"], strict=True):
            assert (all_rows is None) == (mine is None)
            for logprob, token, text in mine or []:
                assert text is None
                if token in all_rows:
                    compared += 1
                    assert logprob == pytest.approx(all_rows[token], abs=1e-5)
            assert mine is None or [token for _, token, _ in mine] == asked
    assert compared > 4


def test_rows_of_a_batch_have_their_own(engine: Engine) -> None:  # noqa: F811
    replies = engine.generate([PROMPT] * 3, PARAMS, **EVERY, token_ids_logprob=[[1], [2, 3, 4], []])
    ids = [reply["meta_info"].get("output_token_ids_logprobs") for reply in replies]
    assert [[token for _, token, _ in row] for row in ids[0]] == [[1]] * 6
    assert [[token for _, token, _ in row] for row in ids[1]] == [[2, 3, 4]] * 6
    assert ids[2] is None
    alone = rows(engine, token_ids_logprob=[2, 3, 4])["output_token_ids_logprobs"]
    assert [[entry[0] for entry in row] for row in ids[1]] == [
        pytest.approx([entry[0] for entry in row], abs=1e-4) for row in alone
    ]
    both = engine.generate([PROMPT] * 2, PARAMS, return_logprob=True, token_ids_logprob=[9])
    assert [reply["meta_info"]["output_token_ids_logprobs"][0][0][1] for reply in both] == [9, 9]


def test_over_http_and_in_programs(engine: Engine) -> None:  # noqa: F811
    wanted = rows(engine, token_ids_logprob=[8, 9])
    with TestClient(create_app(engine.frontend, ServerOptions())) as client:
        body = {"sampling_params": PARAMS, **EVERY, "token_ids_logprob": [8, 9], "return_text_in_logprobs": True}
        meta = client.post("/generate", json={"text": PROMPT, **body}).json()["meta_info"]
        row = meta["output_token_ids_logprobs"][0]
        assert [entry[:2] for entry in row] == [
            pytest.approx(list(entry[:2])) for entry in wanted["output_token_ids_logprobs"][0]
        ]
        assert [entry[2] for entry in row] == [engine.tokenizer.token_text(token) for token in (8, 9)]  # type: ignore[union-attr]
        piece = {"gen": {"sampling_params": PARAMS, "return_logprob": True, "token_ids_logprob": [8, 9]}}
        (result,) = client.post("/generate", json={"text": PROMPT, "pieces": [piece]}).json()["pieces"]
        assert [entry[1] for entry in result["meta_info"]["output_token_ids_logprobs"][0]] == [8, 9]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"token_ids_logprob": [1], "return_logprob": False}, "needs return_logprob"),
        ({"token_ids_logprob": [MODEL_VOCABULARY]}, f"below {MODEL_VOCABULARY}"),
        ({"token_ids_logprob": [-1]}, "from 0"),
        ({"token_ids_logprob": [1] * 257}, "at most 256"),
        ({"token_ids_logprob": [[1], [2]]}, "2 entries for 1"),
    ],
)
def test_refusals(engine: Engine, more: dict[str, Any], says: str) -> None:  # noqa: F811
    with pytest.raises(RequestError, match=says) as caught:
        engine.generate(PROMPT, PARAMS, **(EVERY | more))
    assert caught.value.param == "token_ids_logprob"


def test_nothing_asked_is_nothing_given(engine: Engine) -> None:  # noqa: F811
    assert "output_token_ids_logprobs" not in rows(engine, token_ids_logprob=[])
    assert "output_token_ids_logprobs" not in engine.generate(PROMPT, PARAMS)["meta_info"]
