"""The engine in your own process: `Engine(model_path=...)`, with SGLang's names where the thing is the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from sgcore.config import Choices
from sgcore.engine.client import start_core_thread
from sgcore.engine.generation import Generation
from sgcore.engine.limits import ids_of_each, logprob_fields, with_logprob_ids
from sgcore.engine.outputs import to_dict
from sgcore.engine.prompt import Prompt
from sgcore.engine.run_pieces import arun_pieces, last, make_program, run_pieces
from sgcore.engine.sampling import sampling_from
from sgcore.errors import RequestError
from sgcore.plugins.resolve import resolve
from sgcore.tokenizer.turns import ChatTurns

SamplingInput = Mapping[str, Any] | None


class Engine:
    """Loads a model and generates.

    Takes every option of `sgcore serve` by its flat name (`model_path`, `dtype`, `mem_fraction_static`, `load_format`,
    `context_length`, `random_seed`, `skip_tokenizer_init`, ...). Raises LaunchError if the model can't be served.
    """

    def __init__(self, model_path: str, **options: Any) -> None:
        self.plan = resolve(Choices.of(model_path=str(model_path), **options))
        self.frontend = start_core_thread(self.plan)
        self.tokenizer = self.frontend.tokenizer

    def generate(
        self,
        prompt: str | list[str] | None = None,
        sampling_params: SamplingInput | list[SamplingInput] = None,
        input_ids: list[int] | list[list[int]] | None = None,
        return_logprob: bool = False,
        logprob_start_len: int = -1,
        top_logprobs_num: int = 0,
        stream: bool = False,
        rid: str | None = None,
        timeout: float | None = None,
        pieces: list[Any] | None = None,
        group: Mapping[str, Any] | None = None,
        token_ids_logprob: list[int] | list[list[int]] | None = None,
    ) -> Any:
        """One reply `{text, output_ids, meta_info}` for one prompt, a list for a list (or `n` > 1).

        With `stream` an iterator of the same dictionaries as they grow. With `pieces` and `group`, as in `/generate`, a
        program: its reply has a result for each piece, and all token ids. Raises RequestError for a bad request, and
        with status 504 for one that takes longer than `timeout` seconds.
        """
        if pieces is not None:
            program = make_program(self.frontend, pieces, prompt, input_ids, group, rid, timeout)
            return run_pieces(self.frontend, program, stream)
        logprobs = (return_logprob, logprob_start_len, top_logprobs_num, token_ids_logprob)
        prompts, is_single = self._prompts(prompt, sampling_params, input_ids, logprobs, rid, timeout)
        show = _Shower(self.tokenizer, return_logprob, top_logprobs_num)
        if stream:
            return (show(generation) for _, generation in self.frontend.stream(*prompts))
        finished: dict[tuple[int, int], Generation] = {}
        for place, generation in self.frontend.stream(*prompts):
            if generation.is_finished:
                _raise_abort(generation)
                finished[place, generation.index] = generation
        replies = [show(finished[key]) for key in sorted(finished)]
        return replies[0] if is_single and len(replies) == 1 else replies

    async def async_generate(
        self,
        prompt: str | None = None,
        sampling_params: SamplingInput = None,
        input_ids: list[int] | None = None,
        return_logprob: bool = False,
        logprob_start_len: int = -1,
        top_logprobs_num: int = 0,
        stream: bool = False,
        rid: str | None = None,
        timeout: float | None = None,
        pieces: list[Any] | None = None,
        group: Mapping[str, Any] | None = None,
        token_ids_logprob: list[int] | list[list[int]] | None = None,
    ) -> Any:
        """As `generate` for one prompt; with `stream` an asynchronous iterator."""
        if pieces is not None:
            program = make_program(self.frontend, pieces, prompt, input_ids, group, rid, timeout)
            events = arun_pieces(self.frontend, program)
            return events if stream else await last(events)
        logprobs = (return_logprob, logprob_start_len, top_logprobs_num, token_ids_logprob)
        prompts, _ = self._prompts(prompt, sampling_params, input_ids, logprobs, rid, timeout)
        if len(prompts) != 1:
            raise RequestError("async_generate takes one prompt; gather several calls")
        show = _Shower(self.tokenizer, return_logprob, top_logprobs_num)
        if stream:
            return self._astream(prompts[0], show)
        batches = self.frontend.astream(*prompts)
        finished = {g.index: g async for changes in batches for _, g in changes if g.is_finished}
        for generation in finished.values():
            _raise_abort(generation)
        replies = [show(finished[index]) for index in sorted(finished)]
        return replies[0] if len(replies) == 1 else replies

    async def _astream(self, prompt: Prompt, show: _Shower) -> AsyncIterator[dict[str, Any]]:
        async for changes in self.frontend.astream(prompt):
            for _, generation in changes:
                yield show(generation)

    def _prompts(
        self,
        prompt: str | list[str] | None,
        sampling_params: SamplingInput | list[SamplingInput],
        input_ids: list[int] | list[list[int]] | None,
        logprobs: tuple[bool, int, int, Any],
        rid: str | None,
        timeout: float | None,
    ) -> tuple[list[Prompt], bool]:
        if (prompt is None) == (input_ids is None):
            raise RequestError("give either prompt or input_ids")
        is_single = isinstance(prompt, str) or (input_ids is not None and isinstance(next(iter(input_ids), 0), int))
        given: list[Any] = (
            [prompt if input_ids is None else input_ids] if is_single else list(prompt or input_ids or ())
        )
        wanted = list(sampling_params) if isinstance(sampling_params, list) else [sampling_params] * len(given)
        if len(wanted) != len(given):
            raise RequestError(f"{len(given)} prompts but {len(wanted)} sampling_params", param="sampling_params")
        is_wanted, start, top, token_ids = logprobs
        asked = ids_of_each(token_ids, len(given))
        return [
            Prompt(
                with_logprob_ids(sampling_from(params, self.frontend.defaults), asked[place], is_wanted),
                text=one if isinstance(one, str) else None,
                input_ids=None if isinstance(one, str) else list(one),
                rid=rid if rid is None or is_single else f"{rid}-{place}",
                timeout_s=timeout,
                **logprob_fields(is_wanted, start, top),
            )
            for place, (one, params) in enumerate(zip(given, wanted, strict=True))
        ], is_single

    def flush_cache(self) -> bool:
        """Forget all cached prefixes; False while requests run."""
        return self.frontend.command("flush_cache").is_ok

    def abort_request(self, rid: str = "", abort_all: bool = False) -> None:
        """End the requests whose id begins with `rid`, or all."""
        self.frontend.abort(rid, abort_all)

    def release_group(self, group: str) -> None:
        """Let go of the prefix that a request with this group's id has pinned."""
        self.frontend.unpin(group)

    @property
    def chat_turns(self) -> ChatTurns:
        """What the model's chat template puts around each role's words."""
        return self.frontend.chat_turns

    def get_server_info(self) -> dict[str, Any]:
        """Every option, without secrets."""
        return self.plan.choices.public()

    def shutdown(self) -> None:
        """End the core and give its memory back."""
        self.frontend.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()


class _Shower:
    """Turns generations into dictionaries with what the caller asked for."""

    def __init__(self, tokenizer: Any, return_logprob: bool, top: int) -> None:
        self._tokenizer, self._return_logprob, self._top = tokenizer, return_logprob, top

    def __call__(self, generation: Generation) -> dict[str, Any]:
        return to_dict(
            generation,
            tokenizer=self._tokenizer,
            want_logprobs=self._return_logprob,
            want_top_logprobs=self._return_logprob and self._top > 0,
        )


def _raise_abort(generation: Generation) -> None:
    if generation.finish == "abort" and generation.status != 499:
        raise RequestError(generation.message, generation.status)


def stream_texts(replies: Iterator[dict[str, Any]]) -> Iterator[str]:
    """New text of each reply of a one-prompt stream."""
    shown = 0
    for reply in replies:
        yield reply["text"][shown:]
        shown = len(reply["text"])
