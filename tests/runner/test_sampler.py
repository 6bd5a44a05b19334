"""Draws follow the filtered distribution, penalties equal transformers', and a batch changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from sgcore.engine.messages import SamplingParams
from sgcore.kernels import Kernels
from sgcore.runner.inputs import StepInputs
from sgcore.runner.sampler import Sampler
from sgcore.scheduler.step import RowStart

VOCABULARY = 23
HOST = torch.device("cpu")


def sampler_of(*wanted: SamplingParams, tokens: tuple[int, ...] = (1, 2, 3), prompt: int = 2) -> Sampler:
    sampler = Sampler(Kernels(), VOCABULARY, HOST)
    for row, sampling in enumerate(wanted):
        sampler.join(RowStart(row, list(tokens), prompt, 0, [], sampling, [4], -1, -1))
    return sampler


def sampled(sampler: Sampler, logits: torch.Tensor, rows: list[int]) -> list[int]:
    plan = sampler.plan(rows, StepInputs(HOST, 0))
    return sampler.choose(logits, plan).tolist()


def logits_of(seed: int, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def draws(sampling: dict[str, Any], logits: torch.Tensor, count: int) -> Counter[int]:
    rows = [SamplingParams(sampling_seed=seed, **sampling) for seed in range(count)]
    return Counter(sampled(sampler_of(*rows), logits.expand(count, -1), list(range(count))))


def filtered(logits: torch.Tensor, *warpers: Any) -> torch.Tensor:
    """The distribution that transformers' own processors leave."""
    ids = torch.zeros(1, 1, dtype=torch.long)
    for warper in warpers:
        logits = warper(ids, logits.clone())
    return logits.softmax(-1)[0]


@pytest.mark.parametrize(
    "sampling, warpers",
    [
        ({"temperature": 0.7}, [transformers.TemperatureLogitsWarper(0.7)]),
        ({"top_k": 5}, [transformers.TopKLogitsWarper(5)]),
        ({"top_p": 0.8}, [transformers.TopPLogitsWarper(0.8)]),
        ({"min_p": 0.2}, [transformers.MinPLogitsWarper(0.2)]),
        (
            {"temperature": 1.5, "top_k": 8, "top_p": 0.7},
            [
                transformers.TemperatureLogitsWarper(1.5),
                transformers.TopKLogitsWarper(8),
                transformers.TopPLogitsWarper(0.7),
            ],
        ),
    ],
)
def test_draws_follow_the_filtered_distribution(sampling: dict[str, Any], warpers: list[Any]) -> None:
    logits, count = logits_of(1), 20_000
    wanted = filtered(logits, *warpers)
    counts = draws(sampling, logits, count)
    assert {token for token in counts} <= set(wanted.nonzero().flatten().tolist())
    for token, share in enumerate(wanted.tolist()):
        spread = 4 * (share * (1 - share) / count) ** 0.5 + 1e-4
        assert counts[token] / count == pytest.approx(share, abs=spread)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), others=st.integers(0, 6), place=st.integers(0, 6))
def test_the_same_draw_in_any_batch(seed: int, others: int, place: int) -> None:
    place = min(place, others)
    mine = SamplingParams(sampling_seed=seed, temperature=1.3, top_p=0.9)
    crowd = [SamplingParams(sampling_seed=7 * k, temperature=0.5 * k, frequency_penalty=0.1) for k in range(others)]
    rows = [*crowd[:place], mine, *crowd[place:]]
    together = sampler_of(*rows)
    alone = sampler_of(mine)
    for step in range(4):
        logits = logits_of(step, len(rows))
        tokens = sampled(together, logits, list(range(len(rows))))
        (token,) = sampled(alone, logits[place : place + 1], [0])
        assert tokens[place] == token


def by_inverse(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draws by inverting the cumulative distribution of the sorted vocabulary."""
    ordered, ids = logits.double().sort(dim=-1, descending=True, stable=True)
    place = torch.searchsorted(ordered.softmax(-1).cumsum(-1), uniform[:, None], right=True)
    return ids.gather(-1, place.clamp(max=logits.shape[1] - 1)).squeeze(-1)


def test_a_draw_changes_where_two_tokens_are_about_as_likely() -> None:
    """Logits that move by 1e-3 change few draws, and far fewer than by the inverse of the cumulative distribution."""
    rows, vocabulary, moved = 2000, 2000, 1e-3
    chance = torch.Generator().manual_seed(2)
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(1)).expand(rows, -1) * 2
    shifted = logits + torch.randn(rows, vocabulary, generator=chance) * moved
    uniform = torch.rand(rows, dtype=torch.float64, generator=chance)
    limits = (torch.full((rows,), vocabulary), torch.ones(rows), torch.zeros(rows))
    counters = (torch.arange(rows), torch.arange(rows))
    before, after = (Kernels().sample(x, *limits, *counters) for x in (logits, shifted))
    changed = int((before != after).sum())
    changed_by_inverse = int((by_inverse(logits, uniform) != by_inverse(shifted, uniform)).sum())
    print(f"changed draws of {rows}: {changed}, by the inverse {changed_by_inverse}")
    assert changed <= 8 and changed_by_inverse > 10 * max(changed, 1)


def test_penalties_equal_their_definitions() -> None:
    tokens = (1, 2, 3, 3, 5)
    logits = logits_of(9)
    sampling = SamplingParams(
        temperature=0.0, frequency_penalty=0.5, presence_penalty=0.25, repetition_penalty=1.7, logit_bias={6: 1.5}
    )
    repeated = transformers.RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([tokens]), logits.clone())
    outputs = Counter(tokens[2:])
    wanted = repeated[0].clone()
    for token, count in outputs.items():
        wanted[token] -= 0.5 * count + 0.25
    wanted[6] += 1.5
    sampler = sampler_of(sampling, tokens=tokens)
    edited = sampler._edited(logits, sampler.plan([0], StepInputs(HOST, 0)).edits)
    torch.testing.assert_close(edited[0], wanted)


def test_end_tokens_wait_for_min_new_tokens() -> None:
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 4] = 10.0
    sampler = sampler_of(SamplingParams(temperature=0.0, min_new_tokens=3))
    tokens = [sampled(sampler, logits, [0])[0] for _ in range(3)]
    assert tokens[0] != 4 and tokens[1] != 4 and tokens[2] == 4


def test_a_seeded_row_continues_after_retraction() -> None:
    sampling = SamplingParams(sampling_seed=3, temperature=1.0, presence_penalty=0.5)
    whole = sampler_of(sampling, tokens=(1, 2))
    tokens = [sampled(whole, logits_of(step), [0])[0] for step in range(6)]
    resumed = sampler_of(sampling, tokens=(1, 2, *tokens[:3]))
    assert [sampled(resumed, logits_of(step), [0])[0] for step in range(3, 6)] == tokens[3:]
