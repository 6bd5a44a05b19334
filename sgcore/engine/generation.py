"""What comes of a prompt: sequences of tokens and their text, as they grow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from sgcore.engine.messages import Output, SamplingParams, TokenLogprobs
from sgcore.engine.stop_patterns import StopPatterns
from sgcore.engine.stops import HiddenTokens, StopStrings
from sgcore.tokenizer.detokenizer import Detokenizer
from sgcore.tokenizer.tokenizer import Tokenizer


@dataclass
class Generation:
    """One sequence as it grows; the same object is yielded again after each step that changed it."""

    rid: str
    index: int
    """Position among the `n` samples of a prompt."""
    prompt_ids: list[int]
    text: str = ""
    """All text so far: whole characters only, stop string or match trimmed."""
    output_ids: list[int] = field(default_factory=list)
    finish: str | None = None
    """None while running; `stop`, `length` or `abort`."""
    matched: int | str | None = None
    """The stop token, string or expression that ended it."""
    message: str = ""
    """Why it was aborted."""
    status: int = 200
    """HTTP status that an abort stands for."""
    cached_tokens: int = 0
    retractions: int = 0
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """One entry for each of `output_ids`, when asked for."""
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    """One entry for each prompt position from `logprob_start`; the first token of a prompt has None."""
    created: float = 0.0
    """`time.monotonic()` of submission."""
    first_token: float = 0.0
    finished: float = 0.0

    @property
    def is_finished(self) -> bool:
        return self.finish is not None


class Growth:
    """A generation and what it takes to make it grow: a detokenizer and its stop strings."""

    def __init__(
        self, place: int, generation: Generation, sampling: SamplingParams, tokenizer: Tokenizer | None
    ) -> None:
        """`place`: its prompt's among those that were submitted together."""
        self.place, self.generation = place, generation
        self._detokenizer = None
        if tokenizer is not None:
            skips, spaces = sampling.skip_special_tokens, sampling.spaces_between_special_tokens
            self._detokenizer = Detokenizer(tokenizer, generation.prompt_ids, skips, spaces)
        hides = tokenizer is not None and sampling.stop and sampling.skip_special_tokens
        self._hidden = HiddenTokens(tokenizer.special_tokens if tokenizer and hides else {}, sampling.stop)
        self._stops = StopStrings(self._hidden.stops, sampling.no_stop_trim)
        self._patterns = StopPatterns(sampling.stop_regex, sampling.no_stop_trim)
        self._keeps_stop = sampling.no_stop_trim

    def take(self, output: Output) -> bool:
        """Apply one output; True if its text ended the sequence and the core must be told."""
        generation = self.generation
        if not generation.output_ids and output.tokens:
            generation.first_token = time.monotonic()
        generation.logprobs += output.logprobs
        generation.prompt_logprobs += output.prompt_logprobs
        generation.cached_tokens = output.cached_tokens or generation.cached_tokens
        try:
            stopped = self._add_tokens(output)
        except TimeoutError as error:
            generation.message, generation.status = str(error), 400
            self._finish("abort", None)
            return output.finish is None
        if stopped is not None:
            self._finish("stop", stopped)
        elif output.finish is not None:
            generation.retractions = output.retractions
            generation.message, generation.status = output.message, output.status
            self._finish(output.finish, output.matched)
        return stopped is not None and output.finish is None

    def _add_tokens(self, output: Output) -> str | None:
        """Append tokens and their text, a stop token's only as asked; the stop string or expression that ends it."""
        generation, is_last = self.generation, output.finish is not None
        generation.output_ids += output.tokens
        if self._detokenizer is None:
            return None
        shown = output.tokens[:-1] if output.matched is not None and not self._keeps_stop else output.tokens
        if not shown and not is_last:
            return None
        marked = self._hidden.marked(shown, is_last, self._detokenizer.push)
        text, stopped = self._hidden.unmarked(*self._stops.push(marked, is_last))
        text, matched = self._patterns.push(text, is_last or stopped is not None)
        generation.text += text
        return matched or stopped

    def _finish(self, reason: str, matched: int | str | None) -> None:
        self.generation.finish, self.generation.matched = reason, matched
        self.generation.finished = time.monotonic()


class Growing:
    """The samples of prompts that were submitted together."""

    def __init__(self, growths: Sequence[Growth]) -> None:
        self._growths = {growth.generation.rid: growth for growth in growths}
        self.remaining = len(growths)
        self.is_many = self.remaining > 1

    def take(self, output: Output) -> tuple[Growth, bool] | None:
        """Apply an output; returns its sample, and whether the core must be told to end it. None: it has ended."""
        growth = self._growths[output.rid]
        if growth.generation.is_finished:
            return None
        must_end = growth.take(output)
        self.remaining -= growth.generation.is_finished
        return growth, must_end

    @property
    def unfinished(self) -> list[str]:
        """Ids of those that still run."""
        return [rid for rid, growth in self._growths.items() if not growth.generation.is_finished]


Changes = list[tuple[int, Generation]]
"""Generations that changed, each with its prompt's place."""
