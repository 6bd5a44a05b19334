"""A growing reply that is sent whole each time: little of it at every change, much of it in steps that grow with it."""

from __future__ import annotations

from sgcore.engine.generation import Generation
from sgcore.engine.messages import TokenLogprobs
from sgcore.engine.pace import SHARE, SMALL_VOLUME, Pace, volume


def grow(top: int, tokens: int) -> tuple[list[int], Generation]:
    """Volumes of what is sent while a generation grows token by token."""
    generation, pace, sent = Generation("r", 0, [1]), Pace(), []
    for number in range(tokens):
        generation.output_ids.append(number)
        generation.logprobs.append(TokenLogprobs(number, -1.0, [(-1.0, token) for token in range(top)]))
        generation.finish = "length" if number == tokens - 1 else None
        if pace.is_due("r", generation):
            sent.append(volume(generation))
    return sent, generation


def test_all_changes_of_a_small_reply_are_sent() -> None:
    sent, _ = grow(top=3, tokens=500)
    assert len(sent) == 500


def test_a_large_reply_costs_little_more_than_its_size() -> None:
    sent, generation = grow(top=20, tokens=20_000)
    whole = volume(generation)
    assert sent[-1] == whole > 100 * SMALL_VOLUME
    assert sum(sent) < 2 * SHARE * whole
