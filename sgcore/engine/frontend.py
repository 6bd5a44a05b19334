"""The one way in: text or token ids to the core, tokens back to text, for the engine and the server alike."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

from sgcore.engine.checkpoint import Checkpoint, read_checkpoint, with_end_tokens
from sgcore.engine.generation import Changes, Generation, Growing, Growth
from sgcore.engine.intake import Intake
from sgcore.engine.messages import (
    Abort,
    Alive,
    Command,
    Failed,
    FromCore,
    Output,
    Outputs,
    Pin,
    Ready,
    Reply,
    Request,
    Stats,
    ToCore,
    Unpin,
    Vocabulary,
)
from sgcore.engine.prompt import Prompt
from sgcore.engine.sampling import preferred_sampling
from sgcore.errors import LaunchError, RequestError
from sgcore.plugins.checkpoint import read_template
from sgcore.plugins.plan import Plan
from sgcore.tokenizer.tokenizer import Tokenizer, end_tokens
from sgcore.tokenizer.turns import ChatTurns, chat_turns

Deliver = Callable[[list[Output]], None]
"""Takes outputs for one consumer; called on the thread that receives from the core."""


class Send(Protocol):
    """Sends messages to the core, all or none. Raises RequestError for one that can't be encoded."""

    def __call__(self, *messages: ToCore) -> None: ...


class Frontend:
    """Tokenises, submits, detokenises, finds stop strings. Thread-safe; one for each core.

    `send` hands a message to the core; whoever receives from the core calls `on_message`.
    """

    def __init__(
        self,
        plan: Plan,
        send: Send,
        close: Callable[[], None],
        checkpoint: Checkpoint | None = None,
    ) -> None:
        """`checkpoint`: where it has been read already."""
        self.plan = plan
        self._send, self._close = send, close
        checkpoint = checkpoint or read_checkpoint(plan.source, plan.path, plan.options)
        generation_config = with_end_tokens(checkpoint.generation_config, plan.hf_config)
        self.tokenizer: Tokenizer | None = None
        if checkpoint.tokenizer is not None:
            template = plan.options.get("chat_template")
            text = read_template(template) if template else None
            self.tokenizer = Tokenizer(checkpoint.tokenizer, generation_config, text)
        self.eos_ids = self.tokenizer.eos_ids if self.tokenizer else frozenset(end_tokens(generation_config))
        uses_model = plan.options["sampling_defaults"] == "model"
        preferred = preferred_sampling(plan.options["preferred_sampling_params"])
        self.defaults = (sampling_defaults(generation_config) if uses_model else {}) | preferred
        self.intake = Intake(plan, self.tokenizer, self.eos_ids)
        self.report: list[tuple[str, str]] = []
        self.stats = Stats()
        self.failure: str | None = None
        self.is_device_lost = False
        """The core failed with its device; one in a new process may serve on."""
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._consumers: dict[str, Deliver] = {}
        self._calls: dict[int, queue.SimpleQueue[Reply]] = {}
        self._call_numbers = itertools.count(1)
        self._last_heard = self._turned = time.monotonic()
        self._knows_vocabulary = False

    @property
    def context_tokens(self) -> int:
        return self.intake.context_tokens

    @property
    def max_total_tokens(self) -> int:
        """Tokens that the cache holds; 0 until the core has told."""
        return self.intake.max_total_tokens

    # -- from the core -------------------------------------------------------------------------------------------

    def on_message(self, message: FromCore) -> None:
        """Take one message of the core, on the receiving thread."""
        self._last_heard = time.monotonic()
        if isinstance(message, Outputs):
            self._deliver(message.items)
        elif isinstance(message, Stats):
            self.stats = message
        elif isinstance(message, Alive):
            self._turned = message.turned
        elif isinstance(message, Ready):
            self.report, self.intake.max_total_tokens = message.report, message.max_total_tokens
            self._turned = time.monotonic()
            self._ready.set()
        elif isinstance(message, Reply):
            self.stats = message.stats or self.stats
            waiter = self._calls.pop(message.call, None)
            if waiter is not None:
                waiter.put(message)
        else:
            self.fail(message)

    def _deliver(self, outputs: list[Output]) -> None:
        """Sort the outputs by consumer and hand each its own, at once."""
        by_consumer: dict[Deliver, list[Output]] = defaultdict(list)
        with self._lock:
            for output in outputs:
                consumer = self._consumers.get(output.rid)
                if consumer is not None:
                    by_consumer[consumer].append(output)
                    if output.finish is not None:
                        del self._consumers[output.rid]
        for consumer, mine in by_consumer.items():
            consumer(mine)

    def fail(self, failed: Failed) -> None:
        """The core is gone: end everything that waits for it, with its own words."""
        if self.failure is not None:
            return
        self.failure, self.is_device_lost = failed.message, failed.is_device_lost
        self.hint = failed.detail
        self._ready.set()
        with self._lock:
            rids = list(self._consumers)
        message = f"the engine core died: {failed.message}"
        self._deliver([Output(rid, [], "abort", message=message, status=503) for rid in rids])
        for call in list(self._calls):
            self.on_message(Reply(call, False, message))

    def wait_ready(self) -> None:
        """Until the core can serve; raises LaunchError with its reason if it can't."""
        self._ready.wait()
        if self.failure is not None:
            raise LaunchError(self.failure, self.hint)

    @property
    def has_started(self) -> bool:
        """Whether the core can serve, or has failed."""
        return self._ready.is_set()

    def is_alive(self) -> bool:
        """Whether the core's process runs, and its loop turns or computes a step that doesn't take for ever."""
        now = time.monotonic()
        is_turning = now - self._last_heard < SILENCE_S and now - self._turned < LONGEST_STEP_S
        return self.failure is None and self._ready.is_set() and is_turning

    # -- to the core ---------------------------------------------------------------------------------------------

    def submit(self, prompts: Sequence[Prompt], deliver: Deliver) -> Growing:
        """Validate, tokenise and queue the samples of prompts, all or none; outputs go to `deliver`.

        To the scheduler they are one body, which gets no more than its share. Raises RequestError.
        """
        return self._queue(self._samples(prompts), deliver)

    def _samples(self, prompts: Sequence[Prompt]) -> list[tuple[Growth, Request]]:
        """The samples that are asked for, ready to be queued; nobody else knows of them."""
        samples = []
        body = uuid.uuid4().hex
        for place, prompt in enumerate(prompts):
            requests = self.intake.requests(prompt, body)
            if prompt.sampling.constraint is not None:
                self._send_vocabulary()
            for index, request in enumerate(requests):
                generation = Generation(request.rid, index, request.input_ids, created=time.monotonic())
                samples.append((Growth(place, generation, request.sampling, self.tokenizer), request))
        return samples

    def _queue(self, samples: Sequence[tuple[Growth, Request]], deliver: Deliver) -> Growing:
        """Take the samples' ids and send them to the core; or neither, with a RequestError."""
        rids = Counter(request.rid for _, request in samples)
        with self._lock:
            if self.failure is not None:
                raise RequestError(f"the engine core died: {self.failure}", 503)
            for rid, count in rids.items():
                if rid in self._consumers or count > 1:
                    what = "in use" if rid in self._consumers else "given twice"
                    raise RequestError(f"request id {rid!r} is {what}", param="rid")
            self._consumers.update(dict.fromkeys(rids, deliver))
        try:
            self._send(*(request for _, request in samples))
        except BaseException:
            self._forget(rids)
            raise
        return Growing([growth for growth, _ in samples])

    def _forget(self, rids: Iterable[str]) -> None:
        """Nobody wants what comes for these any more."""
        with self._lock:
            for rid in rids:
                self._consumers.pop(rid, None)

    def _send_vocabulary(self) -> None:
        """Tell the core once what grammars are made of."""
        assert self.tokenizer is not None
        with self._lock:
            if not self._knows_vocabulary:
                self._send(Vocabulary(self.tokenizer.to_json(), sorted(self.eos_ids)))
                self._knows_vocabulary = True

    def abort(self, rid_prefix: str = "", everything: bool = False) -> None:
        """End the requests whose id begins so, or all."""
        with self._lock:
            rids = [rid for rid in self._consumers if everything or (rid_prefix and rid.startswith(rid_prefix))]
        self._send(Abort(rids, everything))

    def pin(self, group: str, tokens: list[int], namespace: str = "") -> None:
        """Keep what is cached of `tokens`, for requests that will begin with them, until `unpin`."""
        self._send(Pin(_pin_name(group, namespace), tokens, namespace))

    def unpin(self, group: str, namespace: str = "") -> None:
        """The group's requests have ended."""
        self._send(Unpin(_pin_name(group, namespace)))

    @cached_property
    def chat_turns(self) -> ChatTurns:
        """The chat template, turn by turn."""
        if self.tokenizer is None:
            return ChatTurns(False, "there is no tokenizer", has_template=False)
        return chat_turns(self.tokenizer)

    def _end(self, rids: Sequence[str]) -> None:
        """Nobody listens to these any more."""
        self._forget(rids)
        if rids and self.failure is None:
            self._send(Abort(list(rids)))

    def command(self, name: str, timeout_s: float = 60.0) -> Reply:
        """Ask the core and wait for its answer."""
        call: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        number = next(self._call_numbers)
        self._calls[number] = call
        if self.failure is not None:
            return Reply(number, False, self.failure)
        self._send(Command(number, name))  # type: ignore[arg-type]
        try:
            return call.get(timeout=timeout_s)
        except queue.Empty:
            return Reply(number, False, f"no answer within {timeout_s} s")

    async def flush_cache(self) -> bool:
        """Forget all cached prefixes; False while requests run."""
        return (await asyncio.to_thread(self.command, "flush_cache")).is_ok

    def close(self) -> None:
        """End the core."""
        self._close()

    # -- consuming -----------------------------------------------------------------------------------------------

    def stream(self, *prompts: Prompt) -> Iterator[tuple[int, Generation]]:
        """(prompt's place, generation) after each change, until all are finished. Closing it aborts the rest."""
        inbox: queue.SimpleQueue[list[Output]] = queue.SimpleQueue()
        growing = self.submit(prompts, inbox.put)
        try:
            while growing.remaining:
                for growth in self._take(growing, inbox.get()):
                    yield growth.place, growth.generation
        finally:
            self._end(growing.unfinished)

    async def astream(self, *prompts: Prompt) -> AsyncGenerator[Changes, None]:
        """The prompts' generations that have changed since the last time. Closing or cancelling it aborts the rest.

        Raises RequestError if one of them is refused before it produced anything.
        """
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[list[Output]] = asyncio.Queue()

        def deliver(outputs: list[Output]) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, outputs)

        growing = self._queue(await self._samples_async(prompts), deliver)
        try:
            while growing.remaining:
                outputs = await inbox.get()
                while growing.is_many and not inbox.empty():  # what came while the reader was busy is one change
                    outputs += inbox.get_nowait()
                changed = {}
                for growth in self._take(growing, outputs):
                    _raise_refusal(growth.generation)
                    changed[growth.generation.rid] = (growth.place, growth.generation)
                if changed:
                    yield list(changed.values())
        finally:
            self._end(growing.unfinished)

    async def _samples_async(self, prompts: Sequence[Prompt]) -> list[tuple[Growth, Request]]:
        """The samples; what takes long is done in a thread, so that nobody else waits."""
        size = sum(len(prompt.text or "") + SAMPLE_CHARS * prompt.sampling.n for prompt in prompts)
        return await asyncio.to_thread(self._samples, prompts) if size > LONG_TEXT else self._samples(prompts)

    def _take(self, growing: Growing, outputs: Iterable[Output]) -> Iterator[Growth]:
        """Apply outputs; yields what has grown."""
        for output in outputs:
            taken = growing.take(output)
            if taken is not None:
                growth, must_end = taken
                if must_end:
                    self._end([output.rid])
                yield growth


SILENCE_S = 5.0
"""After which a core isn't alive: it says every second that it is."""
LONGEST_STEP_S = 300.0
"""After which a core whose loop doesn't turn isn't alive: no step takes as long."""
SAMPLE_CHARS = 64
"""Characters that take as long to tokenise as a sample takes to prepare."""
LONG_TEXT = 4096
"""Characters above which tokenising moves to a thread."""


def _pin_name(group: str, namespace: str) -> str:
    return f"{len(namespace)}:{namespace}{group}"


SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def _raise_refusal(generation: Generation) -> None:
    refused = generation.finish == "abort" and not generation.output_ids and generation.status in (400, 429, 503)
    if refused:
        raise RequestError(generation.message, generation.status)


def sampling_defaults(generation_config: dict[str, Any]) -> dict[str, Any]:
    """What the generation configuration says about sampling; `do_sample` alone says nothing."""
    found = {k: generation_config[k] for k in SAMPLING_DEFAULTS if generation_config.get(k) is not None}
    return {k: v for k, v in found.items() if not (k == "top_k" and v == 0)}
