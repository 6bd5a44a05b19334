"""A prompt that no server takes is refused where it is made, so that no way in can forget a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from sgcore import Engine
from sgcore.engine.limits import MAX_NAMESPACE_CHARS, MAX_RID_CHARS, MAX_TOP_LOGPROBS
from sgcore.engine.messages import SamplingParams
from sgcore.engine.pieces import MAX_SCORED_TOKENS
from sgcore.engine.program import Program
from sgcore.engine.prompt import Prompt
from sgcore.engine.run_pieces import make_program
from sgcore.errors import RequestError
from tests.server.fake import FakeFrontend

SHAPE = dict(vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
HUGE = 10**30
REFUSED: list[tuple[str, Any, str]] = [
    ("top_logprobs", MAX_TOP_LOGPROBS + 1, "top_logprobs_num"),
    ("top_logprobs", HUGE, "top_logprobs_num"),
    ("top_logprobs", True, "top_logprobs_num"),
    ("logprob_start", -2, "logprob_start_len"),
    ("logprob_start", HUGE, "logprob_start_len"),
    ("timeout_s", 0, "timeout"),
    ("timeout_s", float("nan"), "timeout"),
    ("timeout_s", HUGE, "timeout"),
    ("timeout_s", "1", "timeout"),
    ("rid", "", "rid"),
    ("rid", "x" * 2 * (MAX_RID_CHARS + 1), "rid"),
    ("rid", "\ud800", "rid"),
    ("namespace", "x" * (MAX_NAMESPACE_CHARS + 1), "cache_salt"),
    ("namespace", "\udfff", "cache_salt"),
    ("text", "\ud800", "text"),
]


@pytest.mark.parametrize(("field", "value", "param"), REFUSED, ids=lambda value: repr(value)[:24])
def test_a_prompt_out_of_bounds_can_not_be_made(field: str, value: Any, param: str) -> None:
    given = {"sampling": SamplingParams(), "text": "a", field: value}
    with pytest.raises(RequestError, match=param) as caught:
        Prompt(**given)
    assert caught.value.status == 400 and caught.value.param == param


GEN = [("top_logprobs_num", 49153), ("top_logprobs_num", -1), ("logprob_start_len", HUGE), ("logprob_start_len", -2)]


@pytest.mark.parametrize(("field", "value"), GEN)
def test_a_generation_of_a_program_has_the_same_bounds(field: str, value: int) -> None:
    pieces = [{"gen": {}}, {"gen": {"return_logprob": True, field: value}}]
    with pytest.raises(RequestError, match=field):
        make_program(FakeFrontend(), pieces, "a", None, None, None, None)  # type: ignore[arg-type]


def test_a_program_does_not_begin_with_more_to_score_than_memory_holds() -> None:
    pieces = [{"select": {"choices": ["a", "b"] * 500}}]
    program: Program = make_program(FakeFrontend(), pieces, None, [1] * 5000, None, None, None)  # type: ignore[arg-type]
    assert len(pieces[0]["select"]["choices"]) * 5000 > MAX_SCORED_TOKENS
    with pytest.raises(RequestError, match="tokens to score"):
        program.advance()


def test_the_vocabulary_and_the_queue_bound_a_request(tmp_path: Path) -> None:
    LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    options: dict[str, Any] = {"load_format": "dummy", "skip_tokenizer_init": True, "platform": "cpu"}
    with Engine(str(tmp_path), max_total_tokens=256, max_queued_tokens=100, **options) as engine:
        ask = {"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 1}, "return_logprob": True}
        with pytest.raises(RequestError, match="vocabulary's 99, got 100"):
            engine.generate(**ask, top_logprobs_num=100)
        with pytest.raises(RequestError, match="51 samples of 2 prompt tokens are more than 100"):
            engine.generate(input_ids=[1, 2], sampling_params={"n": 51})
        (row,) = engine.generate(**ask, top_logprobs_num=99)["meta_info"]["output_top_logprobs"]
        assert len(row) == 99
