"""How the most likely of several texts is found, from the log-probabilities of their tokens.

Source: the three choice methods of SGLang's language, `sglang/lang/choices.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Logprobs = Sequence[Sequence[float]]
"""For each choice the log-probability of each of its tokens."""


@dataclass(frozen=True)
class Decision:
    """The chosen one's place, and what a method wants to tell beside it."""

    place: int
    details: Mapping[str, Any]


def token_length_normalized(conditional: Logprobs, unconditional: Logprobs) -> Decision:
    """The highest mean log-probability of a token."""
    return Decision(int(np.argmax([np.mean(row) for row in conditional])), {})


def greedy_token_selection(conditional: Logprobs, unconditional: Logprobs) -> Decision:
    """Token by token, those with the highest log-probability stay; short choices go on with their own mean."""
    width = max(map(len, conditional))
    matrix = np.array([[*row, *[float(np.mean(row))] * (width - len(row))] for row in conditional])
    left = np.arange(len(conditional))
    for column in range(width):
        logprobs = matrix[left, column]
        left = left[logprobs == logprobs.max()]
    return Decision(int(left[0]), {"greedy_logprob_matrix": matrix.tolist()})


def unconditional_likelihood_normalized(conditional: Logprobs, unconditional: Logprobs) -> Decision:
    """The highest mean gain in log-probability over the choice alone, without the text before it."""
    pairs = zip(conditional, unconditional, strict=True)
    gains = [np.mean(np.subtract(behind_text, alone)) for behind_text, alone in pairs]
    details = {"normalized_unconditional_prompt_logprobs": [float(np.mean(row)) for row in unconditional]}
    return Decision(int(np.argmax(gains)), details)


METHODS: dict[str, Callable[[Logprobs, Logprobs], Decision]] = {
    method.__name__: method
    for method in (token_length_normalized, greedy_token_selection, unconditional_likelihood_normalized)
}
"""By name; the first is what is taken if nothing is said."""
UNCONDITIONAL = frozenset({unconditional_likelihood_normalized.__name__})
"""Methods that also want the choices scored alone."""
