"""What the routes share: the frontend, its state, and prompts run to generations."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.responses import Response

from sgcore.config import ServerOptions
from sgcore.engine.frontend import Frontend
from sgcore.engine.generation import Changes, Generation
from sgcore.engine.messages import SamplingParams
from sgcore.engine.pace import volume
from sgcore.engine.prompt import Prompt
from sgcore.errors import RequestError
from sgcore.parsing.formats import Format
from sgcore.parsing.served import served_format
from sgcore.server.activity import CURRENT, LoadLog
from sgcore.server.metrics import Metrics
from sgcore.tokenizer.renderer import PROCESSES

T = TypeVar("T")
Observer = Callable[[Mapping[str, Any]], None]
"""Takes the summary of a finished request; must not block."""
INLINE_CHARS = 4096
"""Longer texts are tokenised in a thread: 4,096 characters take about a millisecond."""
BYTES_A_CHAR = 16
"""Bytes of a body that are checked while a character is tokenised."""


class Service:
    """One server's state. `frontend` is None while the core starts."""

    def __init__(self, options: ServerOptions, frontend: Any = None, observer: Observer | None = None) -> None:
        self.options = options
        self.metrics = Metrics(options.metrics_prefix)
        self.started = time.time()
        self.is_stopping = False
        self.in_flight = 0
        self.held_bytes = 0
        """Of bodies that arrive."""
        self.observer = observer
        self.format: Format | None = None
        """How answers are taken apart; None: they are content."""
        self.has_special_marks = False
        """The format's delimiters are special tokens, which must be shown to be found."""
        self._load_log = LoadLog()
        self._conversations: anyio.CapacityLimiter | None = None
        self._frontend: Any = None
        self._restart: str | None = None
        if frontend is not None:
            self.attach(frontend)

    def attach(self, frontend: Any) -> None:
        """The core is ready."""
        self._restart = None
        self.metrics.watch(frontend, self.model_name(frontend))
        format = served_format(frontend.plan, frontend.tokenizer)
        self.has_special_marks = format is not None and format.marks_with(frontend.tokenizer.special_texts())
        self.format = format
        self._frontend = frontend

    @staticmethod
    def model_name(frontend: Any) -> str:
        """The name in replies: `--served-model-name`, else the model path as the user gave it."""
        model = frontend.plan.choices.model
        return str(model.served_model_name or model.model_path)

    @property
    def name(self) -> str:
        return self.model_name(self.frontend)

    def restarts(self, reason: str) -> None:
        """The core has failed and another one is on its way."""
        self._restart = reason

    @property
    def outage(self) -> RequestError | None:
        """Why no request can be taken now, with status 503; None where they are taken."""
        if self.is_stopping:
            return RequestError("the server is shutting down", status=503, code="shutting_down")
        if self._restart is not None:
            return RequestError(f"the engine starts again: {self._restart}", status=503, code="restarting")
        if self._frontend is None:
            return RequestError("the server is starting", status=503, code="starting")
        if self._frontend.failure is not None:
            return RequestError(f"the engine has failed: {self._frontend.failure}", status=503, code="engine_failed")
        return None

    @property
    def frontend(self) -> Frontend:
        """The way to the core. Raises `RequestError` 503 while it starts, ends or is dead."""
        if (outage := self.outage) is not None:
            raise outage
        return self._frontend  # type: ignore[no-any-return]

    @property
    def failure(self) -> str | None:
        """Why the core died; None while it lives or starts."""
        return None if self._frontend is None or self._restart is not None else self._frontend.failure

    @property
    def is_started(self) -> bool:
        """The core has been ready once."""
        return self._frontend is not None

    @property
    def is_ready(self) -> bool:
        """The core answers and new requests are taken."""
        return self.outage is None and bool(self._frontend.is_alive())

    def check_model(self, model: str | None) -> str:
        """The served name. Raises `RequestError` 404 for a model that isn't served here."""
        plan = self.frontend.plan
        known = {self.name, plan.choices.model.model_path, plan.model_path, "default", "", None}
        if model in known:
            return self.name
        message = f"the model {str(model)[:128]!r} does not exist; this server has {self.name!r}"
        raise RequestError(message, status=404, param="model", code="model_not_found")

    @property
    def tokenizer(self) -> Any:
        """The tokenizer. Raises `RequestError` 400 on a server that works with token ids only."""
        if self.frontend.tokenizer is None:
            raise RequestError("this server has no tokenizer (--skip-tokenizer-init); send input_ids to /generate")
        return self.frontend.tokenizer

    @property
    def frontend_tokenizer(self) -> Any:
        """The tokenizer, or None; also while the server drains."""
        return self._frontend.tokenizer

    @property
    def defaults(self) -> dict[str, Any]:
        """Sampling defaults of the model's generation_config."""
        return self.frontend.defaults

    def log_load(self) -> None:
        """A line about the load, if it is time for one."""
        if self._frontend is not None:
            self._load_log.tick(self._frontend.stats)

    def check_count(self, prompts: int, param: str) -> None:
        """Raise `RequestError` 400 for more prompts in a request than are taken."""
        most = self.options.max_request_prompts
        if prompts > most:
            raise RequestError(f"{param}: {prompts} prompts are more than {most} (--max-request-prompts)", param=param)

    async def reply(self, generations: Iterable[Generation], make: Callable[[], Response]) -> Response:
        """`make()`, in a thread if there is much to write of the generations."""
        return await self.off_loop(sum(len(each.text) + volume(each) for each in generations), make)

    async def off_loop(self, chars: int, call: Callable[..., T], *args: Any) -> T:
        """`call(*args)`, in a thread if `chars` of text make it slow."""
        if chars <= INLINE_CHARS:
            return call(*args)
        return await anyio.to_thread.run_sync(call, *args)

    async def as_conversation(self, call: Callable[..., T], *args: Any) -> T:
        """`call(*args)` in one of a few threads: it waits for a chat template, and templates take their time."""
        if self._conversations is None:
            self._conversations = anyio.CapacityLimiter(PROCESSES)
        return await anyio.to_thread.run_sync(call, *args, limiter=self._conversations)

    def _observe(self, generation: Generation) -> None:
        if self.observer is not None:
            self.observer(summary(generation))

    async def run(self, prompts: list[Prompt]) -> AsyncGenerator[Changes, None]:
        """All prompts at once, counted in the metrics; each yield has what changed since the last. Closing aborts."""
        watches = [self.metrics.request() for _ in prompts]
        try:
            async with aclosing(self.frontend.astream(*prompts)) as batches:
                async for changes in batches:
                    for place, generation in changes:
                        watches[place].changed(generation)
                        if generation.is_finished:
                            self._observe(generation)
                    yield changes
        finally:
            work = CURRENT.get()
            for watch in watches:
                watch.close()
                if work is not None:
                    work.add(watch)

    async def complete(self, prompts: list[Prompt]) -> list[list[Generation]]:
        """Every prompt's finished generations, by sample. Raises `RequestError` for one that failed."""
        found: list[dict[int, Generation]] = [{} for _ in prompts]
        async with aclosing(self.run(prompts)) as batches:
            async for changes in batches:
                for position, generation in changes:
                    raise_if_failed(generation)
                    found[position][generation.index] = generation
        return [[samples[index] for index in sorted(samples)] for samples in found]


def summary(generation: Generation) -> dict[str, Any]:
    """What observers are told of a finished request."""
    return {
        "rid": generation.rid,
        "finish": generation.finish,
        "prompt_tokens": len(generation.prompt_ids),
        "completion_tokens": len(generation.output_ids),
        "cached_tokens": generation.cached_tokens,
        "first_token_s": generation.first_token - generation.created,
        "e2e_s": generation.finished - generation.created,
    }


def raise_if_failed(generation: Generation) -> None:
    """Raise `RequestError` for a generation that the server, not the client, aborted."""
    if generation.finish == "abort" and generation.status >= 400:
        raise RequestError(generation.message or "the request was aborted", generation.status)


def greedy(max_new_tokens: int) -> SamplingParams:
    """The cheapest parameters, for probes."""
    return SamplingParams(max_new_tokens=max_new_tokens, temperature=0.0, ignore_eos=True)
