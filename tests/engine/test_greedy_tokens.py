"""Greedy tokens equal transformers', in float32, on the same weights, whatever else is going on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import transformers

from sgcore import Engine
from sgcore.testing.checkpoints import greedy_tokens, log_probabilities, write_checkpoint
from tests.integration.serving import Server

SHAPE = dict(
    vocab_size=199,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=2048,
    eos_token_id=1,
    bos_token_id=0,
    pad_token_id=0,
)
FAMILIES = {
    "full-attention": (transformers.LlamaConfig, {"head_dim": 8}),
    "window": (transformers.MistralConfig, {"head_dim": 8, "sliding_window": 24}),
}
LENGTHS = (1, 2, 3, 5, 8, 13, 15, 16, 17, 31, 32, 33, 64, 100, 200, 333, 500, 777, 1024, 1500)
NEW_TOKENS = 12
GREEDY = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    kind, extra = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    return folder, write_checkpoint(kind(**{**SHAPE, **extra}), folder)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    draw = random.Random(5)
    shared = [draw.randrange(2, 199) for _ in range(40)]
    return [((shared if n > 60 else []) + [draw.randrange(2, 199) for _ in range(n)])[:n] for n in LENGTHS]


@pytest.fixture(scope="module")
def expected(checkpoint: tuple[Path, Any], prompts: list[list[int]]) -> list[list[int]]:
    _, model = checkpoint
    return [greedy_tokens(model, prompt, NEW_TOKENS) for prompt in prompts]


def open_engine(folder: Path, **options: Any) -> Engine:
    defaults = {"max_total_tokens": 8192, "skip_tokenizer_init": True, "dtype": "float32", "max_running_requests": 32}
    return Engine(model_path=str(folder), **{**defaults, **options})


@pytest.fixture(
    scope="module",
    params=[
        pytest.param({}, id="plain"),
        pytest.param({"chunked_prefill_size": 64}, id="chunks-of-64"),
        pytest.param({"disable_radix_cache": True}, id="no-cache"),
        pytest.param({"schedule_policy": "lpm", "page_size": 4, "run_ahead": 1}, id="lpm-small-pages-ahead"),
        pytest.param({"chunked_prefill_size": 64, "run_ahead": 4}, id="chunks-of-64-far-ahead"),
    ],
)
def engine(request: pytest.FixtureRequest, checkpoint: tuple[Path, Any]) -> Iterator[Engine]:
    with open_engine(checkpoint[0], **request.param) as opened:
        yield opened


def outputs(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    return [reply["output_ids"] for reply in engine.generate(input_ids=prompts, sampling_params=GREEDY)]


def test_alone(engine: Engine, prompts: list[list[int]], expected: list[list[int]]) -> None:
    for prompt, wanted in zip(prompts, expected, strict=True):
        assert engine.generate(input_ids=prompt, sampling_params=GREEDY)["output_ids"] == wanted


def test_in_one_batch_and_after_a_cache_hit(
    engine: Engine, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    engine.flush_cache()
    assert outputs(engine, prompts) == expected
    again = engine.generate(input_ids=prompts, sampling_params=GREEDY)
    assert [reply["output_ids"] for reply in again] == expected
    hits = sum(reply["meta_info"]["cached_tokens"] for reply in again)
    assert (hits > 0) != engine.plan.options["disable_radix_cache"]


@pytest.mark.parametrize("run_ahead, pool_tokens", [(0, 128), (2, 80)])
def test_after_retraction(
    checkpoint: tuple[Path, Any], prompts: list[list[int]], expected: list[list[int]], run_ahead: int, pool_tokens: int
) -> None:
    """A small pool admits more rows than can end in it, since each is expected to use only part of its limit."""
    pairs = [(p, e) for p, e in zip(prompts, expected, strict=True) if 15 <= len(p) <= 33] * 3
    options = {"max_total_tokens": pool_tokens, "page_size": 4, "chunked_prefill_size": 64, "run_ahead": run_ahead}
    with open_engine(checkpoint[0], **options) as engine:
        replies = engine.generate(input_ids=[p for p, _ in pairs], sampling_params=GREEDY)
        assert [reply["output_ids"] for reply in replies] == [wanted for _, wanted in pairs]
        assert engine.frontend.command("stats").stats.retractions_total > 0
        assert engine.flush_cache()
        stats = engine.frontend.command("stats").stats
        assert (stats.used_tokens, stats.cached_tokens, stats.violations_total) == (0, 0, 0)


def test_over_http(
    checkpoint: tuple[Path, Any], prompts: list[list[int]], expected: list[list[int]], tmp_path: Path
) -> None:
    served = Server(tmp_path / "log", "--skip-tokenizer-init", "--dtype", "float32", model=checkpoint[0]).wait_ready()
    try:
        body = {"input_ids": prompts, "sampling_params": GREEDY}
        replies = httpx2.post(f"{served.url}/generate", json=body, timeout=100).json()
        assert [reply["output_ids"] for reply in replies] == expected
    finally:
        assert served.stop() == 0


def test_a_seeded_draw_is_the_same_alone_and_in_a_batch(checkpoint: tuple[Path, Any], prompts: list[list[int]]) -> None:
    sampling = {"temperature": 0.8, "top_p": 0.95, "max_new_tokens": 20, "ignore_eos": True, "sampling_seed": 7}
    others = [{**sampling, "sampling_seed": number} for number in range(len(prompts) - 1)]
    with open_engine(checkpoint[0]) as engine:
        alone = engine.generate(input_ids=prompts[0], sampling_params=sampling)["output_ids"]
        batch = engine.generate(input_ids=[*prompts[1:], prompts[0]], sampling_params=[*others, sampling])
        assert batch[-1]["output_ids"] == alone
        other = engine.generate(input_ids=prompts[0], sampling_params={**sampling, "sampling_seed": 8})
        assert other["output_ids"] != alone


def test_logprobs_equal_the_reference(checkpoint: tuple[Path, Any], prompts: list[list[int]]) -> None:
    folder, model = checkpoint
    prompt = next(prompt for prompt in prompts if len(prompt) == 100)
    log = log_probabilities(model, prompt)
    with open_engine(folder, chunked_prefill_size=32) as engine:
        for start in (0, 7, 40, 7):
            meta = engine.generate(
                input_ids=prompt,
                sampling_params={**GREEDY, "max_new_tokens": 1},
                return_logprob=True,
                logprob_start_len=start,
                top_logprobs_num=3,
            )["meta_info"]
            got = meta["input_token_logprobs"]
            wanted = [None if p == 0 else log[p - 1, prompt[p]].item() for p in range(start, len(prompt))]
            assert [entry[1] for entry in got] == prompt[start:]
            assert [entry[0] for entry in got] == pytest.approx(wanted, abs=2e-3)
            assert meta["output_token_logprobs"][0][0] == pytest.approx(log[-1].max().item(), abs=2e-3)
            assert [entry[1] for entry in meta["output_top_logprobs"][0]] == log[-1].topk(3).indices.tolist()


def test_the_checkpoint_is_what_it_says(checkpoint: tuple[Path, Any]) -> None:
    assert json.loads((checkpoint[0] / "config.json").read_text())["architectures"]
