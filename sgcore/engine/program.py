"""A program in one request: each piece is a core request that begins with the tokens of all pieces before it.

The radix cache makes the chain cheap, and nothing is tokenised twice. `Program` knows neither threads nor asyncio: it
says which prompts it wants next, and takes their generations.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from sgcore.choices import METHODS, UNCONDITIONAL
from sgcore.engine.frontend import Frontend
from sgcore.engine.generation import Changes, Generation
from sgcore.engine.limits import MAX_RID_CHARS, check_name, logprob_fields, with_logprob_ids
from sgcore.engine.messages import SamplingParams
from sgcore.engine.outputs import to_dict
from sgcore.engine.pace import Pace
from sgcore.engine.pieces import MAX_SCORED_TOKENS, GenPiece, Group, Piece, SelectPiece
from sgcore.engine.prompt import Prompt
from sgcore.engine.sampling import sampling_from
from sgcore.engine.scoring import Candidate, candidate, check_method, values
from sgcore.errors import RequestError
from sgcore.tokenizer.tokenizer import Tokenizer

Finished = list[list[Generation]]
"""For each prompt its samples, in order."""
Steps = Generator[list[Prompt], Finished, None]
Result = dict[str, Any]
Run = Callable[[list[Prompt]], AsyncGenerator[Changes, None]]
"""Computes prompts; each yield has what changed."""

SCORING = SamplingParams(max_new_tokens=0, temperature=0.0)


class Program:
    """Pieces behind a prompt. Raises RequestError for pieces that can't be computed."""

    def __init__(
        self,
        frontend: Frontend,
        pieces: Sequence[Piece],
        text: str | None = None,
        input_ids: Sequence[int] | None = None,
        group: Group | None = None,
        prompt: Prompt | None = None,
    ) -> None:
        """`prompt` has what all requests of the program share: namespace, timeout, the id's beginning."""
        if frontend.tokenizer is None:
            raise RequestError("pieces need a tokenizer; this server has none (skip_tokenizer_init)", param="pieces")
        self.tokenizer: Tokenizer = frontend.tokenizer
        self.pieces = [Piece(text=text)] * (text is not None) + list(pieces)
        self.given = int(text is not None)
        self.ids = list(input_ids or ())
        self.results: list[Result] = []
        self.failure: RequestError | None = None
        self.group = group
        self.shared = prompt or Prompt(sampling=SCORING)
        self.rid = self.shared.rid or uuid.uuid4().hex
        check_name("rid", self.rid, 1, MAX_RID_CHARS)
        self.requests = 0
        self._counts = {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0}
        self._began = time.monotonic()
        self._start = len(self.ids)
        self._prompts = [self._asked(piece, frontend.defaults) for piece in self.pieces]
        self._frontend = frontend
        self._steps = self._run()
        self._found: list[dict[int, Generation]] = []
        self._pace = Pace()

    @property
    def chars(self) -> int:
        """How much text there is to tokenise; a choice is tokenised with what stands before it."""
        texts = sum(len(piece.text or "") for piece in self.pieces)
        choices = (choice for piece in self.pieces if piece.select for choice in piece.select.choices)
        return texts + sum(64 + 2 * len(choice) for choice in choices)

    def _asked(self, piece: Piece, defaults: Mapping[str, Any]) -> Prompt:
        """What a piece asks of its requests, so that nothing runs before all pieces were found to be right."""
        if piece.select is not None:
            check_method(piece.select.method)
        gen = piece.gen
        if gen is None:
            return self.shared
        fields = logprob_fields(gen.return_logprob, gen.logprob_start_len, gen.top_logprobs_num)
        sampling = sampling_from(gen.sampling_params, defaults)
        sampling = with_logprob_ids(sampling, gen.token_ids_logprob, gen.return_logprob)
        return replace(self.shared, sampling=sampling, **fields)

    def advance(self) -> list[Prompt] | None:
        """The next prompts, once all generations of the last ones were taken; None at the end."""
        finished = [[samples[index] for index in sorted(samples)] for samples in self._found]
        try:
            prompts = self._steps.send(finished) if finished else next(self._steps)
        except StopIteration:
            return None
        self._found = [{} for _ in prompts]
        return prompts

    def take(self, place: int, generation: Generation) -> None:
        """A generation of the prompt at `place` has changed. Raises RequestError for one that was aborted."""
        if generation.finish == "abort":  # a program can't go on behind half a piece
            raise RequestError(generation.message or "the request was aborted", generation.status)
        self._found[place][generation.index] = generation

    def fail(self, error: RequestError) -> None:
        """A request of the program failed. Raises `error` if nothing was generated before it."""
        if self.requests <= 1 or not any("meta_info" in result for result in self.results):
            raise error
        self.failure = error

    def _run(self) -> Steps:
        for place, piece in enumerate(self.pieces):
            if piece.gen is not None:
                yield from self._generate(piece.gen, self._prompts[place])
            elif piece.select is not None:
                yield from self._select(piece.select)
            else:
                self._append(piece.text or "")
            if place + 1 == self.given:
                self._start = len(self.ids)
        if self.group is not None and self.group.size > 1 and self.ids:
            yield from self._commit(self.group)

    def _commit(self, group: Group) -> Steps:
        """Compute what is left of the tokens and pin them."""
        yield from self._ask([self._prompt(self.ids)])
        self._frontend.pin(group.id, self.ids, self.shared.namespace)

    def _append(self, text: str) -> None:
        encode = self.tokenizer.encode_more if self.ids else self.tokenizer.encode_first
        self.ids += encode(text)
        self.results.append({"text": text})

    def _generate(self, piece: GenPiece, asked: Prompt) -> Steps:
        (samples,) = yield from self._ask([self._prompt(self.ids, asked)])
        self.ids += shown_ids(self.tokenizer, samples[0], asked.sampling)
        shown = [self._show(generation, piece) for generation in samples]
        self.results.append(shown[0] if len(shown) == 1 else _together(shown))

    def _show(self, generation: Generation, piece: GenPiece) -> Result:
        return to_dict(
            generation,
            tokenizer=self.tokenizer,
            want_logprobs=piece.return_logprob,
            want_top_logprobs=piece.return_logprob and piece.top_logprobs_num > 0,
            return_text_in_logprobs=piece.return_text_in_logprobs,
        )

    def _select(self, piece: SelectPiece) -> Steps:
        if not self.ids:
            raise RequestError("a choice needs text before it", param="pieces")
        if len(self.ids) * len(piece.choices) > MAX_SCORED_TOKENS:
            message = f"{len(piece.choices)} choices behind {len(self.ids)} tokens are more than {MAX_SCORED_TOKENS}"
            raise RequestError(f"{message} tokens to score", param="pieces")
        found = [candidate(self.tokenizer, self.ids, choice) for choice in piece.choices]
        prompts = [self._scoring(self.ids[: one.start] + one.tokens, one.start) for one in found]
        scored = yield from self._ask(prompts)
        conditional = [values(samples[0].prompt_logprobs) for samples in scored]
        unconditional: list[list[float]] = []
        if piece.method in UNCONDITIONAL:
            alone = yield from self._ask([self._scoring(one.tokens, 0) for one in found])
            unconditional = [values(samples[0].prompt_logprobs) for samples in alone]
        decision = METHODS[piece.method](conditional, unconditional)
        chosen = found[decision.place]
        self.ids = self.ids[: chosen.start] + chosen.tokens
        self.results.append(self._chosen(chosen, found, conditional, unconditional, decision.details))

    def _chosen(
        self,
        chosen: Candidate,
        found: list[Candidate],
        conditional: list[list[float]],
        unconditional: list[list[float]],
        details: Mapping[str, Any],
    ) -> Result:
        rows = [self._rows(one, logprobs) for one, logprobs in zip(found, conditional, strict=True)]
        meta = {
            "normalized_prompt_logprobs": [sum(row) / len(row) for row in conditional],
            "input_token_logprobs": rows,
            "output_token_logprobs": [[] for _ in found],
            **details,
        }
        if unconditional:
            pairs = zip(found, unconditional, strict=True)
            meta["unconditional_token_logprobs"] = [self._rows(one, logprobs) for one, logprobs in pairs]
        return {"text": chosen.text, "output_ids": chosen.tokens, "meta_info": meta}

    def _rows(self, one: Candidate, logprobs: list[float]) -> list[tuple[float, int, str]]:
        pairs = zip(logprobs, one.tokens, strict=True)
        return [(logprob, token, self.tokenizer.token_text(token)) for logprob, token in pairs]

    def _scoring(self, ids: list[int], start: int) -> Prompt:
        return replace(self._prompt(ids), logprob_start=start, top_logprobs=0)

    def _prompt(self, ids: list[int], asked: Prompt | None = None) -> Prompt:
        return replace(asked or self.shared, text=None, input_ids=list(ids), timeout_s=self._time_left())

    def _time_left(self) -> float | None:
        if self.shared.timeout_s is None:
            return None
        return max(self.shared.timeout_s - (time.monotonic() - self._began), 0.001)

    def _ask(self, prompts: list[Prompt]) -> Generator[list[Prompt], Finished, Finished]:
        named = [replace(one, rid=f"{self.rid}-{self.requests + n}") for n, one in enumerate(prompts)]
        self.requests += len(named)
        finished = yield named
        for samples in finished:
            self._counts["prompt_tokens"] += len(samples[0].prompt_ids)
            self._counts["cached_tokens"] += samples[0].cached_tokens
            self._counts["completion_tokens"] += sum(len(sample.output_ids) for sample in samples)
        return finished

    def progress(self, changes: Changes) -> Iterator[Result]:
        """The piece in the making as it grows, for streams: of a generation, its first sample."""
        place = len(self.results)
        piece = self.pieces[place].gen if place < len(self.pieces) else None
        if piece is not None:
            for _, generation in changes:
                if generation.index == 0 and self._pace.is_due(place, generation):
                    shown = self._show(generation, piece)
                    meta = {**shown["meta_info"], "id": self.rid}
                    yield {"piece": place - self.given, "text": shown["text"], "meta_info": meta}

    def reply(self) -> Result:
        """Everything: a result for each piece, all token ids, and the counts of all requests together."""
        results = self.results[self.given :]
        meta: dict[str, Any] = {
            "id": self.rid,
            "finish_reason": self._finish_reason(),
            **self._counts,
            "requests": self.requests,
            "e2e_latency": time.monotonic() - self._began,
        }
        return {
            "text": "".join(_first(result["text"]) for result in results),
            "output_ids": self.ids[self._start :],
            "input_ids": self.ids,
            "pieces": results,
            "meta_info": meta,
        }

    def _finish_reason(self) -> dict[str, Any]:
        if self.failure is not None:
            return {"type": "abort", "message": str(self.failure), "status_code": self.failure.status}
        return {"type": "stop", "matched": None}


async def run_program(
    program: Program, run: Run, advance: Callable[[], Awaitable[list[Prompt] | None]] | None = None
) -> AsyncGenerator[Changes, None]:
    """Compute a program; yields what changed. Closing it ends the request that runs.

    `advance` calls `program.advance` in another way: tokenising may take long.
    """
    while True:
        prompts = program.advance() if advance is None else await advance()
        if prompts is None:
            return
        try:
            async with aclosing(run(prompts)) as batches:
                async for changes in batches:
                    for place, generation in changes:
                        program.take(place, generation)
                    yield changes
        except RequestError as error:
            program.fail(error)
            return


def shown_ids(tokenizer: Tokenizer, generation: Generation, sampling: SamplingParams) -> list[int]:
    """The tokens of the text that a generation shows: without the stop token, cut where a stop string was cut."""
    ids = list(generation.output_ids)
    if isinstance(generation.matched, int):
        is_shown = sampling.no_stop_trim and tokenizer.decode(ids[-1:], sampling.skip_special_tokens)
        return ids if is_shown else ids[:-1]
    if generation.matched is None:
        return ids
    skips, spaces = sampling.skip_special_tokens, sampling.spaces_between_special_tokens
    context = generation.prompt_ids[-6:]
    known = len(tokenizer.decode(context, skips, spaces))
    for count in range(len(ids), 0, -1):
        text = tokenizer.decode(context + ids[:count], skips, spaces)[known:]
        if generation.text.startswith(text):
            rest = generation.text[len(text) :]
            return ids[:count] + (tokenizer.encode_more(rest) if rest else [])
    return tokenizer.encode_more(generation.text) if generation.text else []


def _together(shown: list[Result]) -> Result:
    """Several samples as one result: lists of texts, ids and information."""
    return {key: [one[key] for one in shown] for key in shown[0]}


def _first(text: str | list[str]) -> str:
    return text if isinstance(text, str) else text[0]
