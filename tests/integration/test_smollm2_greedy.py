"""On real weights: greedy tokens equal transformers', in float32, whatever else is going on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
import transformers

from sgcore import Engine
from sgcore_gguf.source import GGUFSource
from tests.integration.serving import MODEL, Server, needs_model

pytestmark = [needs_model, pytest.mark.timeout(600)]

LENGTHS = (1, 2, 3, 5, 8, 13, 15, 16, 17, 31, 32, 33, 64, 100, 200, 333, 500, 777, 1024, 1500)
NEW_TOKENS = 12
LEAST_GAP = 1e-3
"""Between the two largest logits of the reference; rounding moves a logit by about 1e-4."""
GREEDY = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
TEXT = (Path(__file__).parents[2] / "LICENSE").read_text()


@dataclass(frozen=True)
class Case:
    """A prompt and what transformers says next."""

    prompt: list[int]
    wanted: list[int]
    least_gap: float


def make_prompts(tokenizer: Any) -> list[list[int]]:
    """English text cut at each length, from another place for each; every third is a chat turn if there is room."""
    text = tokenizer.encode(TEXT, add_special_tokens=False)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Summarize:\nBODY"}], tokenize=False, add_generation_prompt=True
    )
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in chat.split("BODY"))
    prompts = []
    for place, length in enumerate(LENGTHS):
        room = length - len(before) - len(after)
        body = text[37 * place :]
        prompts.append(body[:length] if place % 3 or room < 1 else before + body[:room] + after)
    assert tuple(map(len, prompts)) == LENGTHS
    return prompts


def reference(model: Any, prompt: list[int]) -> Case:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    first, second = torch.cat(out.logits).topk(2).values.unbind(1)
    return Case(prompt, out.sequences[0, len(prompt) :].tolist(), (first - second).min().item())


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    source = GGUFSource(MODEL)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**source.hf_config())).float().eval()
    loaded = model.load_state_dict({name: tensor.float() for name, tensor in source.tensors()}, strict=False)
    assert model.config.tie_word_embeddings
    assert (loaded.missing_keys, loaded.unexpected_keys) == (["lm_head.weight"], [])
    model.tie_weights()
    return [reference(model, prompt) for prompt in make_prompts(source.tokenizer())]


def open_engine(**options: Any) -> Engine:
    return Engine(model_path=str(MODEL), **{"dtype": "float32", "max_total_tokens": 8192, **options})


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with open_engine() as opened:
        yield opened


def generate(engine: Engine, cases: list[Case]) -> list[dict[str, Any]]:
    """All in one call; their tokens must be the reference's."""
    replies: list[dict[str, Any]] = engine.generate(input_ids=[c.prompt for c in cases], sampling_params=GREEDY)
    check(replies, cases)
    return replies


def check(replies: list[dict[str, Any]], cases: list[Case]) -> None:
    assert [(len(c.prompt), r["output_ids"]) for c, r in zip(cases, replies, strict=True)] == [
        (len(c.prompt), c.wanted) for c in cases
    ]


def test_no_token_is_a_matter_of_rounding(cases: list[Case]) -> None:
    assert min(case.least_gap for case in cases) > LEAST_GAP, [(len(c.prompt), c.least_gap) for c in cases]


def test_alone(engine: Engine, cases: list[Case]) -> None:
    engine.flush_cache()
    check([engine.generate(input_ids=case.prompt, sampling_params=GREEDY) for case in cases], cases)


def test_in_one_batch_and_after_a_cache_hit(engine: Engine, cases: list[Case]) -> None:
    assert engine.flush_cache()
    generate(engine, cases)
    for case, reply in zip(cases, generate(engine, cases), strict=True):
        assert reply["meta_info"]["cached_tokens"] >= (len(case.prompt) - 1) // 16 * 16


def test_in_chunks_of_64(cases: list[Case]) -> None:
    with open_engine(chunked_prefill_size=64) as engine:
        generate(engine, cases)


def test_after_retractions(cases: list[Case]) -> None:
    """A small pool and many rows, more of which are admitted than can end in it."""
    many = [case for case in cases if 13 <= len(case.prompt) <= 33] * 3
    with open_engine(max_total_tokens=80, page_size=4) as engine:
        replies = generate(engine, many)
    assert sum(reply["meta_info"]["num_retractions"] > 0 for reply in replies) > 1


def test_over_http(server: Server, cases: list[Case]) -> None:
    def post(ids: Any) -> Any:
        body = {"input_ids": ids, "sampling_params": GREEDY}
        return httpx2.post(f"{server.url}/generate", json=body, timeout=300).json()

    check(post([case.prompt for case in cases]), cases)
    check([post(case.prompt) for case in cases], cases)
