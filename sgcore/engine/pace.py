"""How often a growing reply is sent where each sending has all of it."""

from __future__ import annotations

from collections.abc import Hashable

from sgcore.engine.generation import Generation

SMALL_VOLUME = 4096
"""Below, every change is sent: so much takes about 2 ms to write."""
SHARE = 16
"""A larger reply is sent again when this part of it is new, so that all sendings together are linear in its size."""


def volume(generation: Generation) -> int:
    """Entries of log-probabilities in a reply, with tokens as a sixteenth of one: what it takes to write it."""
    entries = 0
    for listed in (generation.prompt_logprobs, generation.logprobs):
        if listed:
            entries += len(listed) * (1 + len(listed[-1].top) + len(listed[-1].asked))
    return entries + len(generation.output_ids) // 16


class Pace:
    """What was sent last of each growing reply of one request."""

    def __init__(self) -> None:
        self._sent: dict[Hashable, int] = {}

    def is_due(self, name: Hashable, generation: Generation) -> bool:
        """Whether this change is to be sent; the last one always is."""
        now, before = volume(generation), self._sent.get(name, 0)
        if now > SMALL_VOLUME and now < before + before // SHARE and not generation.is_finished:
            return False
        self._sent[name] = now
        return True
