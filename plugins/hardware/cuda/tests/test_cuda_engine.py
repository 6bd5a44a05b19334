"""The engine on a GPU: transformers' tokens and logprobs; graphs, run-ahead, cache and neighbours change nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sgcore import Engine
from sgcore.testing.checkpoints import greedy_tokens, log_probabilities, write_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SHAPE = dict(
    vocab_size=1031,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=4096,
    eos_token_id=1,
    bos_token_id=0,
    pad_token_id=0,
)
FAMILIES = {
    "llama": (transformers.LlamaConfig, {}),
    "mistral-window": (transformers.MistralConfig, {"sliding_window": 70}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen3": (transformers.Qwen3Config, {"tie_word_embeddings": True}),
}
NEW_TOKENS = 24
GREEDY = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    kind, extra = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    return folder, write_checkpoint(kind(**{**SHAPE, **extra}), folder, std=0.1)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    draw = random.Random(5)
    shared = [draw.randrange(2, 1031) for _ in range(600)]
    fresh = [[draw.randrange(2, 1031) for _ in range(n)] for n in (1, 2, 15, 16, 17, 31, 100, 257, 900)]
    return fresh + [shared + [draw.randrange(2, 1031) for _ in range(n)] for n in (1, 9, 30, 77, 200)]


@pytest.fixture(scope="module")
def expected(checkpoint: tuple[Path, Any], prompts: list[list[int]]) -> list[list[int]]:
    _, model = checkpoint
    return [greedy_tokens(model, prompt, NEW_TOKENS) for prompt in prompts]


def open_engine(folder: Path, **options: Any) -> Engine:
    defaults = {"max_total_tokens": 32768, "skip_tokenizer_init": True, "dtype": "float32", "max_running_requests": 32}
    return Engine(model_path=str(folder), **{**defaults, **options})


@pytest.fixture(
    scope="module",
    params=[
        pytest.param({}, id="graphs"),
        pytest.param({"enforce_eager": True, "run_ahead": 0}, id="eager"),
        pytest.param({"run_ahead": 4}, id="far-ahead"),
        pytest.param({"chunked_prefill_size": 64}, id="chunks-of-64"),
    ],
)
def engine(request: pytest.FixtureRequest, checkpoint: tuple[Path, Any]) -> Iterator[Engine]:
    with open_engine(checkpoint[0], **request.param) as opened:
        yield opened


def outputs(engine: Engine, prompts: list[list[int]], sampling: Any = None) -> list[list[int]]:
    replies = engine.generate(input_ids=prompts, sampling_params=sampling or GREEDY)
    return [reply["output_ids"] for reply in replies]


def test_alone(engine: Engine, prompts: list[list[int]], expected: list[list[int]]) -> None:
    for prompt, wanted in zip(prompts, expected, strict=True):
        assert engine.generate(input_ids=prompt, sampling_params=GREEDY)["output_ids"] == wanted


def test_together_and_after_a_cache_hit(engine: Engine, prompts: list[list[int]], expected: list[list[int]]) -> None:
    engine.flush_cache()
    for _ in range(3):
        assert outputs(engine, prompts) == expected


def test_after_retraction(checkpoint: tuple[Path, Any], prompts: list[list[int]], expected: list[list[int]]) -> None:
    pairs = [(p, e) for p, e in zip(prompts, expected, strict=True) if 15 <= len(p) <= 100] * 8
    with open_engine(checkpoint[0], max_total_tokens=512, chunked_prefill_size=256) as engine:
        assert outputs(engine, [p for p, _ in pairs]) == [wanted for _, wanted in pairs]
        assert engine.frontend.command("stats").stats.retractions_total > 0
        assert engine.flush_cache()


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-3), ("bfloat16", 0.15)])
def test_logprobs_equal_the_reference(
    checkpoint: tuple[Path, Any], prompts: list[list[int]], dtype: str, tolerance: float
) -> None:
    folder, model = checkpoint
    with open_engine(folder, dtype=dtype, chunked_prefill_size=512) as engine:
        for prompt in prompts[-4:] + prompts[5:7]:
            reply = engine.generate(
                input_ids=prompt,
                sampling_params={**GREEDY, "max_new_tokens": 8},
                return_logprob=True,
                logprob_start_len=0,
                top_logprobs_num=3,
            )
            whole = prompt + reply["output_ids"]
            log = log_probabilities(model, whole)
            wanted = [log[p - 1, whole[p]].item() for p in range(1, len(whole))]
            meta = reply["meta_info"]
            got = [e[0] for e in meta["input_token_logprobs"][1:] + meta["output_token_logprobs"]]
            differences = torch.tensor(got) - torch.tensor(wanted)
            assert differences.abs().max() < (tolerance if dtype == "float32" else 8 * tolerance)
            assert differences.square().mean().sqrt() < tolerance


def test_seeded_draws_are_the_same_in_any_company(engine: Engine, prompts: list[list[int]]) -> None:
    wanted = [
        {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "sampling_seed": 11, "max_new_tokens": 16, "ignore_eos": True},
        {"temperature": 1.2, "min_p": 0.05, "sampling_seed": 12, "max_new_tokens": 16, "ignore_eos": True},
        {"temperature": 1.0, "frequency_penalty": 0.5, "sampling_seed": 13, "max_new_tokens": 16, "ignore_eos": True},
        GREEDY,
    ]
    alone = [outputs(engine, [prompt], [params])[0] for prompt, params in zip(prompts[2:6], wanted, strict=True)]
    assert outputs(engine, prompts[2:6], wanted) == alone


def test_stop_ids_and_aborts_leave_nothing_behind(
    engine: Engine, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    stop = expected[6][5]
    stopped = {**GREEDY, "stop_token_ids": [stop]}
    first = expected[6].index(stop)
    assert outputs(engine, [prompts[6]], [stopped])[0] == expected[6][: first + 1]
    endless = {**GREEDY, "max_new_tokens": 3000}
    threading.Timer(0.3, engine.abort_request, kwargs={"abort_all": True}).start()
    replies = engine.generate(input_ids=prompts[:6], sampling_params=endless)
    assert all(reply["meta_info"]["finish_reason"]["type"] == "abort" for reply in replies)
    assert outputs(engine, prompts) == expected
    assert engine.flush_cache()
    stats = engine.frontend.command("stats").stats
    assert (stats.used_tokens, stats.cached_tokens, stats.violations_total) == (0, 0, 0)
