"""Keys and values of 8 bits through the whole engine: however work is cut, beside keys and values as they are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sgcore import Engine
from sgcore.errors import LaunchError
from sgcore.testing.checkpoints import write_checkpoint
from sgcore_cpu.library import usable_levels
from sgcore_cpu.platform import CpuPlatform

pytest.importorskip("sgcore_llama")

SHAPE = dict(
    vocab_size=224, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=512, eos_token_id=1, bos_token_id=0, pad_token_id=0,
)  # fmt: skip
LENGTHS = (2, 15, 16, 17, 40, 90, 200)
PREFIX = 33
NEW_TOKENS = 12
GREEDY = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
INTEGERS = {"kv_cache_dtype": "int8"}
ROUNDING = 0.06
"""Of a log-probability, by rounding keys and values; 0.024 was the most."""
SAME = 5e-3
"""Of a log-probability, where a number near the middle of two may be rounded to either."""

Open = Callable[..., Engine]
Scored = list[tuple[list[int], torch.Tensor]]


@pytest.fixture(scope="module", params=[None, 40], ids=["full-attention", "window"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(transformers.MistralConfig(**SHAPE, sliding_window=request.param), folder, std=0.1)
    yield lambda **options: open_engine(folder, **options)


def open_engine(folder: Path, **options: Any) -> Engine:
    usual = {"platform": "cpu", "dtype": "float32", "skip_tokenizer_init": True, "max_running_requests": 16}
    return Engine(model_path=str(folder), **{"max_total_tokens": 4096, **usual, **options})


@pytest.fixture(scope="module")
def floats(opened: Open) -> Iterator[Engine]:
    with opened() as engine:
        yield engine


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    draw = random.Random(5)
    shared = [draw.randrange(2, 224) for _ in range(PREFIX)]
    ids = [[draw.randrange(2, 224) for _ in range(length)] for length in LENGTHS]
    return [shared + one[PREFIX:] if len(one) > PREFIX else one for one in ids]


def replies(engine: Engine, prompts: list[list[int]]) -> Scored:
    """Each prompt with its greedy tokens, and the log-probabilities of these."""
    made = engine.generate(input_ids=prompts, sampling_params=GREEDY, return_logprob=True)
    entries = [reply["meta_info"]["output_token_logprobs"] for reply in made]
    wholes = [prompt + reply["output_ids"] for prompt, reply in zip(prompts, made, strict=True)]
    return [(whole, torch.tensor([e[0] for e in entry])) for whole, entry in zip(wholes, entries, strict=True)]


def assert_near(engine: Engine, scored: Scored, tolerance: float) -> None:
    """The engine gives the generated tokens nearly the same log-probabilities, as parts of prompts."""
    for ids, found in scored:
        start = len(ids) - NEW_TOKENS - 1
        once = {**GREEDY, "max_new_tokens": 1}
        reply = engine.generate(input_ids=ids, sampling_params=once, return_logprob=True, logprob_start_len=start)
        expected = torch.tensor([entry[0] for entry in reply["meta_info"]["input_token_logprobs"][-NEW_TOKENS:]])
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"chunked_prefill_size": 16, "page_size": 4}, id="chunks-of-16-small-pages"),
        pytest.param({"enforce_eager": True}, id="nothing-recorded"),
        pytest.param({"attention_backend": "torch_native"}, id="torch"),
    ],
)
def test_tokens_are_nearly_as_probable_as_with_floats(
    opened: Open, floats: Engine, prompts: list[list[int]], options: dict[str, Any]
) -> None:
    with opened(**INTEGERS, **options) as engine:
        alone = [scored for prompt in prompts for scored in replies(engine, [prompt])]
        together = replies(engine, prompts) + replies(engine, prompts[2:5] * 4)
    assert_near(floats, alone + together, ROUNDING)


def test_rows_that_are_retracted_go_on(opened: Open, floats: Engine, prompts: list[list[int]]) -> None:
    with opened(**INTEGERS, max_total_tokens=128, page_size=4, chunked_prefill_size=64) as engine:
        scored = replies(engine, prompts[1:4] * 4)
        assert engine.frontend.command("stats").stats.retractions_total > 0
    assert_near(floats, scored, ROUNDING)


def test_a_cached_prefix_of_any_length_changes_nothing(opened: Open, prompts: list[list[int]]) -> None:
    with opened(**INTEGERS) as engine, opened(**INTEGERS, disable_radix_cache=True) as other:
        for length in (1, 15, 16, 17, 50, 64, 89):
            engine.flush_cache()
            engine.generate(input_ids=prompts[5][:length], sampling_params={**GREEDY, "max_new_tokens": 1})
            assert_near(other, replies(engine, prompts[5:6]), SAME)


def test_the_native_kernels_and_torch_round_alike(opened: Open, prompts: list[list[int]]) -> None:
    with opened(**INTEGERS) as native, opened(**INTEGERS, attention_backend="torch_native") as reference:
        assert_near(reference, replies(native, prompts), SAME)


@pytest.mark.skipif(not usable_levels(), reason="no native library (on Debian: apt install g++; then make setup)")
@pytest.mark.parametrize(
    "options, times",
    [(INTEGERS, 1), ({**INTEGERS, "attention_backend": "torch_native"}, 0), ({"kv_cache_dtype": "fp8"}, 0)],
)
def test_steps_are_recorded_where_the_backend_allows_it(
    opened: Open, prompts: list[list[int]], options: dict[str, Any], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture, captured = CpuPlatform.capture, []

    def count(self: CpuPlatform, work: Callable[[], None]) -> Callable[[], None]:
        replay = capture(self, work)
        captured.append(replay)
        return replay

    monkeypatch.setattr(CpuPlatform, "capture", count)
    with opened(**options) as engine:
        replies(engine, prompts[:1])
    assert len(captured) == times


def test_a_backend_without_such_a_cache_refuses_it(opened: Open) -> None:
    with pytest.raises(LaunchError, match="--kv-cache-dtype int8: the attention backend null has none"):
        opened(**INTEGERS, attention_backend="null")
