"""From logits to tokens: bias, penalties, filters, a counter-based draw, logprobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sgcore.engine.messages import SamplingParams
from sgcore.kernels import Kernels
from sgcore.runner.inputs import StepInputs
from sgcore.runner.readback import Logprobs
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


@dataclass(slots=True)
class Draws:
    """Arrays of the rows that draw, (drawn,) each; `places` are theirs among the step's sampling rows."""

    places: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    positions: Tensor


@dataclass(slots=True)
class Edit:
    """One row whose logits are changed before sampling."""

    place: int
    state: RowSampling
    strengths: Tensor | None
    """(3, 1, 1) float32: frequency, presence and repetition penalty."""
    biases: tuple[Tensor, Tensor] | None
    """Token ids and what is added."""
    forbidden: Tensor | None
    """Ids that may not be sampled yet."""


@dataclass(slots=True)
class AskedIds:
    """Tokens whose log-probabilities rows ask for by id."""

    rows: Sequence[Sequence[int]]
    ids: Tensor
    """(rows, ids) int64, padded; one row stands for all."""


@dataclass(slots=True)
class SamplingPlan:
    """What the sampling rows of one step need, with its arrays on the way to the device."""

    states: list[RowSampling]
    draws: Draws | None
    edits: list[Edit]
    logprob_places: Tensor | None
    logprob_top: dict[int, int]
    """Place -> how many alternatives; for the rows that want logprobs."""
    logprob_ids: AskedIds | None
    masked: Tensor | None = None
    """(masked,) int64: places of the rows whose tokens a mask restricts."""

    @property
    def mode(self) -> str | None:
        """What can be captured with the forward pass; None: the logits are needed outside of a graph."""
        if self.edits or self.logprob_top or self.masked is not None:
            return None
        return "greedy" if self.draws is None else "drawn"


class Sampler:
    """Samples the rows of a step. The same request draws the same tokens whatever else is in the batch.

    `plan` is the host's part and knows no logits; `choose` and `logprobs` are the device's and wait for nothing.
    """

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

    def plan(
        self, rows: list[int], inputs: StepInputs, capacity: int | None = None, masked: Sequence[int] = ()
    ) -> SamplingPlan:
        """Put what `choose` needs for these rows, and count their draw. `capacity`: rows of a static batch.

        `masked`: places of rows for which `choose` gets masks.

        What a captured graph reads is put first, in sizes that depend on the capacity alone.
        """
        states = [self.rows[row] for row in rows]
        drawn = [place for place, state in enumerate(states) if not state.is_greedy]
        draws = self._draws(drawn, states, inputs, capacity) if drawn else None
        edits = [_edit(place, state, inputs) for place, state in enumerate(states) if state.edits_logits]
        top = {place: state.top_logprobs for place, state in enumerate(states) if state.top_logprobs >= 0}
        places = inputs.put(np.array(list(top), np.int64)) if top else None
        for state in states:
            state.known += 1
        masked_places = inputs.put(np.array(masked, np.int64)) if masked else None
        asked = asked_ids([states[place].sampling.logprob_token_ids for place in top], inputs)
        return SamplingPlan(states, draws, edits, places, top, asked, masked_places)

    def _draws(self, drawn: list[int], states: list[RowSampling], inputs: StepInputs, capacity: int | None) -> Draws:
        # A place that is repeated draws the same again.
        places = drawn if capacity is None else drawn + drawn[-1:] * (capacity - len(drawn))
        wanted = [states[place].sampling for place in places]
        top_k = [w.top_k if w.top_k > 0 else self.vocab_size for w in wanted]
        return Draws(
            inputs.put(np.array(places, np.int64)),
            inputs.put(np.array([w.temperature for w in wanted], np.float32)),
            inputs.put(np.array(top_k, np.int64)),
            inputs.put(np.array([w.top_p for w in wanted], np.float32)),
            inputs.put(np.array([w.min_p for w in wanted], np.float32)),
            inputs.put(np.array([w.sampling_seed or 0 for w in wanted], np.int64)),
            inputs.put(np.array([states[place].known for place in places], np.int64)),
        )

    def choose(self, logits: Tensor, plan: SamplingPlan, masks: Tensor | None = None) -> Tensor:
        """logits (rows, vocabulary) -> tokens (rows,) int64; `masks` as in `Kernels.mask_logits`.

        `NO_TOKEN` for a row whose logits are broken.
        """
        scores = self._edited(logits, plan.edits) if plan.edits else logits
        if plan.masked is not None and masks is not None:
            is_needed = scores is logits and plan.logprob_places is not None
            scores = self.kernels.mask_logits(scores.clone() if is_needed else scores, plan.masked, masks)
        chosen = self.kernels.greedy(scores)
        if plan.draws is not None:
            self._draw(scores, chosen, plan.draws)
        for place, state in enumerate(plan.states):
            if state.output_counts is not None and state.is_seen is not None:
                token = chosen[place : place + 1].clamp(min=0)
                state.output_counts.scatter_add_(0, token, torch.ones_like(token, dtype=torch.float32))
                state.is_seen.scatter_(0, token, torch.ones_like(token, dtype=torch.bool))
        return chosen

    def _draw(self, scores: Tensor, chosen: Tensor, draws: Draws) -> None:
        tempered = scores[draws.places].float() / draws.temperature[:, None]
        filters = (draws.top_k, draws.top_p, draws.min_p)
        tokens = self.kernels.sample(tempered, *filters, draws.seeds, draws.positions)
        chosen.index_copy_(0, draws.places, tokens)

    def _edited(self, logits: Tensor, edits: list[Edit]) -> Tensor:
        scores = logits.float().clone()
        for edit in edits:
            scores[edit.place] = self._edit_row(scores[edit.place], edit)
        return scores

    def _edit_row(self, scores: Tensor, edit: Edit) -> Tensor:
        state = edit.state
        if edit.strengths is not None and state.output_counts is not None and state.is_seen is not None:
            seen = (state.output_counts[None], state.is_seen[None])
            scores = self.kernels.penalise(scores[None], *seen, *edit.strengths.unbind())[0]
        if edit.biases is not None:
            scores = scores.index_add(0, *edit.biases)
        if edit.forbidden is not None:
            scores = scores.index_fill(0, edit.forbidden, float("-inf"))
        return scores

    def logprobs(self, logits: Tensor, chosen: Tensor, plan: SamplingPlan) -> Logprobs | None:
        """The model's own for the rows that asked: before bias, penalties, temperature and filters."""
        if plan.logprob_places is None:
            return None
        places, top = plan.logprob_places, list(plan.logprob_top.values())
        return token_logprobs(self.kernels, logits[places], chosen[places].clamp(min=0), top, plan.logprob_ids)


def _edit(place: int, state: RowSampling, inputs: StepInputs) -> Edit:
    wanted = state.sampling
    strengths = biases = forbidden = None
    if state.penalises:
        values = (wanted.frequency_penalty, wanted.presence_penalty, wanted.repetition_penalty)
        strengths = inputs.put(np.array(values, np.float32).reshape(3, 1, 1))
    if wanted.logit_bias:
        ids, added = zip(*wanted.logit_bias.items(), strict=True)
        biases = (inputs.put(np.array(ids, np.int64)), inputs.put(np.array(added, np.float32)))
    if state.known - state.prompt_tokens < wanted.min_new_tokens:
        forbidden = inputs.put(np.array(state.stop_ids, np.int64))
    return Edit(place, state, strengths, biases, forbidden)


def asked_ids(rows: Sequence[Sequence[int]], inputs: StepInputs) -> AskedIds | None:
    """The tokens that rows ask for by id; None if none does."""
    most = max(map(len, rows), default=0)
    if not most:
        return None
    padded = np.zeros((len(rows), most), np.int64)
    for place, ids in enumerate(rows):
        padded[place, : len(ids)] = ids
    return AskedIds(rows, inputs.put(padded))


def token_logprobs(
    kernels: Kernels, logits: Tensor, tokens: Tensor, top: list[int], asked: AskedIds | None = None
) -> Logprobs:
    """Of each row's token; row i also gets its `top[i]` most probable tokens, and those that it asked for by id."""
    found = Logprobs(tokens, *kernels.logprobs(logits, tokens, max(top, default=0)), top)
    if asked is not None:
        values = logits.gather(-1, asked.ids.expand(len(logits), -1)).float()
        found.asked_values = values - logits.float().logsumexp(-1, keepdim=True)
        found.asked = asked.rows
    return found
