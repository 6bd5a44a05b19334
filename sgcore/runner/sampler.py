"""From logits to tokens: bias, penalties, filters, a counter-based draw, logprobs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sgcore.engine.messages import SamplingParams, TokenLogprobs
from sgcore.kernels import Kernels
from sgcore.scheduler.step import RowStart

GREEDY_TEMPERATURE = 1e-6


@dataclass(slots=True)
class RowSampling:
    """What a row asked for, and what its penalties need to remember."""

    sampling: SamplingParams
    stop_ids: list[int]
    prompt_tokens: int
    known: int
    """Tokens of the row, prompt included: the counter of its next draw."""
    top_logprobs: int
    output_counts: Tensor | None = None
    is_seen: Tensor | None = None

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature < GREEDY_TEMPERATURE

    @property
    def edits_logits(self) -> bool:
        wanted = self.sampling
        return self.penalises or bool(wanted.logit_bias) or self.known - self.prompt_tokens < wanted.min_new_tokens

    @property
    def penalises(self) -> bool:
        wanted = self.sampling
        return bool(wanted.frequency_penalty or wanted.presence_penalty or wanted.repetition_penalty != 1.0)


class Sampler:
    """Samples the rows of a step. The same request draws the same tokens whatever else is in the batch."""

    def __init__(self, kernels: Kernels, vocab_size: int, device: torch.device) -> None:
        self.kernels, self.vocab_size, self.device = kernels, vocab_size, device
        self.rows: dict[int, RowSampling] = {}

    def join(self, start: RowStart) -> None:
        """Take a row's parameters; its tokens so far count for the penalties."""
        row = RowSampling(start.sampling, start.stop_ids, start.prompt_tokens, len(start.tokens), start.top_logprobs)
        if row.penalises:
            outputs = torch.tensor(start.tokens[start.prompt_tokens :], dtype=torch.long)
            row.output_counts = torch.bincount(outputs, minlength=self.vocab_size).float().to(self.device)
            row.is_seen = torch.zeros(self.vocab_size, dtype=torch.bool, device=self.device)
            row.is_seen[torch.tensor(start.tokens, dtype=torch.long)] = True
        self.rows[start.row] = row

    def sample(self, logits: Tensor, rows: list[int]) -> tuple[list[int], dict[int, TokenLogprobs]]:
        """logits (rows, vocabulary) -> a token for each row, and logprobs by row for those that asked.

        Logprobs are the model's own: before bias, penalties, temperature and filters.
        """
        states = [self.rows[row] for row in rows]
        scores = self._edited(logits, states)
        chosen = scores.argmax(-1)
        drawn = [place for place, state in enumerate(states) if not state.is_greedy]
        if drawn:
            chosen[drawn] = self._draw(scores[drawn].float(), [states[place] for place in drawn])
        tokens: list[int] = chosen.tolist()
        logprobs = self._logprobs(logits, chosen, rows, states)
        for state, token in zip(states, tokens, strict=True):
            state.known += 1
            if state.output_counts is not None and state.is_seen is not None:
                state.output_counts[token] += 1
                state.is_seen[token] = True
        return tokens, logprobs

    def _edited(self, logits: Tensor, states: list[RowSampling]) -> Tensor:
        places = [place for place, state in enumerate(states) if state.edits_logits]
        if not places:
            return logits
        scores = logits.float().clone()
        for place in places:
            scores[place] = self._edit_row(scores[place], states[place])
        return scores

    def _edit_row(self, scores: Tensor, state: RowSampling) -> Tensor:
        wanted = state.sampling
        if state.output_counts is not None and state.is_seen is not None:
            strengths = (wanted.frequency_penalty, wanted.presence_penalty, wanted.repetition_penalty)
            columns = [torch.tensor([[value]], device=scores.device) for value in strengths]
            scores = self.kernels.penalise(scores[None], state.output_counts[None], state.is_seen[None], *columns)[0]
        for token, bias in (wanted.logit_bias or {}).items():
            scores[token] += bias
        if state.known - state.prompt_tokens < wanted.min_new_tokens:
            scores[state.stop_ids] = float("-inf")
        return scores

    def _draw(self, scores: Tensor, states: list[RowSampling]) -> Tensor:
        def column(values: list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=scores.device)

        wanted = [state.sampling for state in states]
        temperature = column([w.temperature for w in wanted], torch.float32)
        uniform = [counter_uniform(w.sampling_seed or 0, s.known) for w, s in zip(wanted, states, strict=True)]
        return self.kernels.sample(
            scores / temperature[:, None],
            column([w.top_k if w.top_k > 0 else self.vocab_size for w in wanted], torch.long),
            column([w.top_p for w in wanted], torch.float32),
            column([w.min_p for w in wanted], torch.float32),
            column(uniform, torch.float64),
        )

    def _logprobs(
        self, logits: Tensor, chosen: Tensor, rows: list[int], states: list[RowSampling]
    ) -> dict[int, TokenLogprobs]:
        places = [place for place, state in enumerate(states) if state.top_logprobs >= 0]
        if not places:
            return {}
        top = [states[place].top_logprobs for place in places]
        entries = token_logprobs(self.kernels, logits[places], chosen[places], top)
        return {rows[place]: entry for place, entry in zip(places, entries, strict=True)}


def token_logprobs(kernels: Kernels, logits: Tensor, tokens: Tensor, top: list[int]) -> list[TokenLogprobs]:
    """One entry a row; row i also gets its `top[i]` most probable tokens."""
    picked, values, ids = (x.tolist() for x in kernels.logprobs(logits, tokens, max(top)))
    return [
        TokenLogprobs(token, logprob, list(zip(values[i][: top[i]], ids[i][: top[i]], strict=True)))
        for i, (token, logprob) in enumerate(zip(tokens.tolist(), picked, strict=True))
    ]


def counter_uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from the row's seed and the token's position alone (splitmix64, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return float(np.float64((z ^ (z >> 31)) >> 11) * 2.0**-53)
