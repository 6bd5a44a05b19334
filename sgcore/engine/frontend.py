"""The one way in: text or token ids to the core, tokens back to text, for the engine and the server alike."""

from __future__ import annotations

import asyncio
import itertools
import queue
import random
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgspec

from sgcore.engine.checkpoint import Checkpoint, read_checkpoint, with_end_tokens
from sgcore.engine.limits import (
    MAX_NAMESPACE_CHARS,
    MAX_RID_CHARS,
    MAX_TOP_LOGPROBS,
    check_name,
    check_number,
    check_text,
    check_timeout,
    context_exceeded,
)
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
    SamplingParams,
    Stats,
    ToCore,
    TokenLogprobs,
    Unpin,
    Vocabulary,
)
from sgcore.engine.sampling import INT32_MAX, preferred_sampling
from sgcore.engine.stops import HiddenTokens, StopStrings
from sgcore.errors import LaunchError, RequestError
from sgcore.plugins.checkpoint import read_template
from sgcore.plugins.plan import Plan
from sgcore.tokenizer.detokenizer import Detokenizer
from sgcore.tokenizer.tokenizer import Tokenizer, end_tokens
from sgcore.tokenizer.turns import ChatTurns, chat_turns


@dataclass(frozen=True)
class Prompt:
    """One prompt and everything asked of it. Exactly one of `text` and `input_ids` is given."""

    sampling: SamplingParams
    text: str | None = None
    input_ids: list[int] | None = None
    rid: str | None = None
    logprob_start: int = -1
    """First prompt position whose logprob is wanted; -1: none."""
    top_logprobs: int = -1
    """-1: no logprobs; 0: of the sampled token; n: also of the n most probable tokens."""
    priority: int = 0
    namespace: str = ""
    timeout_s: float | None = None
    add_special_tokens: bool = True
    """Whether the tokenizer begins `text` as it begins a document."""
    keep_tokens: int | None = None
    """A longer prompt is cut to so many tokens; -1: to what leaves room for the answer."""
    keeps_end: bool = True
    """Of a prompt that is cut, its end stays; else its beginning."""

    def __post_init__(self) -> None:
        """Raise RequestError for what no server takes. The frontend knows the vocabulary and the context."""
        if self.text is not None:
            check_text("text", self.text)
        if self.rid is not None:
            check_name("rid", self.rid, 1, 2 * MAX_RID_CHARS)
        check_number("logprob_start_len", self.logprob_start, -1)
        check_number("top_logprobs_num", self.top_logprobs, -1, MAX_TOP_LOGPROBS)
        check_number("priority", self.priority, -INT32_MAX)
        if self.keep_tokens not in (None, -1):
            check_number("truncate_prompt_tokens", self.keep_tokens, 1)
        check_name("cache_salt", self.namespace, 0, MAX_NAMESPACE_CHARS)
        check_timeout(self.timeout_s)


@dataclass
class Generation:
    """One sequence as it grows; the same object is yielded again after each step that changed it."""

    rid: str
    index: int
    """Position among the `n` samples of a prompt."""
    prompt_ids: list[int]
    text: str = ""
    """All text so far: whole characters only, stop string trimmed."""
    output_ids: list[int] = field(default_factory=list)
    finish: str | None = None
    """None while running; `stop`, `length` or `abort`."""
    matched: int | str | None = None
    """The stop token or string that ended it."""
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

    def __init__(self, generation: Generation, sampling: SamplingParams, tokenizer: Tokenizer | None) -> None:
        self.generation = generation
        self._detokenizer = None
        if tokenizer is not None:
            skips, spaces = sampling.skip_special_tokens, sampling.spaces_between_special_tokens
            self._detokenizer = Detokenizer(tokenizer, generation.prompt_ids, skips, spaces)
        hides = tokenizer is not None and sampling.stop and sampling.skip_special_tokens
        self._hidden = HiddenTokens(tokenizer.special_tokens if tokenizer and hides else {}, sampling.stop)
        self._stops = StopStrings(self._hidden.stops, sampling.no_stop_trim)
        self._stop_ids = () if sampling.no_stop_trim else sampling.stop_token_ids

    def take(self, output: Output) -> bool:
        """Apply one output; True if a stop string ended the sequence and the core must be told."""
        generation = self.generation
        if not generation.output_ids and output.tokens:
            generation.first_token = time.monotonic()
        generation.logprobs += output.logprobs
        generation.prompt_logprobs += output.prompt_logprobs
        generation.cached_tokens = output.cached_tokens or generation.cached_tokens
        stopped = self._add_tokens(output)
        if stopped is not None:
            self._finish("stop", stopped)
        elif output.finish is not None:
            generation.retractions = output.retractions
            generation.message, generation.status = output.message, output.status
            self._finish(output.finish, output.matched)
        return stopped is not None and output.finish is None

    def _add_tokens(self, output: Output) -> str | None:
        """Append tokens and their text; the stop string if one is complete. The stop token itself shows no text."""
        generation, is_last = self.generation, output.finish is not None
        generation.output_ids += output.tokens
        if self._detokenizer is None:
            return None
        shown = output.tokens[:-1] if output.matched is not None else output.tokens
        if not shown and not is_last:
            return None
        marked = self._hidden.marked(shown, is_last, self._detokenizer.push)
        text, stopped = self._hidden.unmarked(*self._stops.push(marked, is_last))
        generation.text += text
        return stopped

    def _finish(self, reason: str, matched: int | str | None) -> None:
        self.generation.finish, self.generation.matched = reason, matched
        self.generation.finished = time.monotonic()


Deliver = Callable[[list[Output]], None]
"""Takes outputs for one consumer; called on the thread that receives from the core."""


class Frontend:
    """Tokenises, submits, detokenises, finds stop strings. Thread-safe; one for each core.

    `send` hands a message to the core; whoever receives from the core calls `on_message`.
    """

    def __init__(
        self,
        plan: Plan,
        send: Callable[[ToCore], None],
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
        self.vocab_size = int(plan.hf_config["vocab_size"])
        self.context_tokens = plan.context_tokens
        self.max_total_tokens = 0
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
        self._random = random.Random(int(plan.options["random_seed"]))
        self._last_heard = self._turned = time.monotonic()
        self._knows_vocabulary = False

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
            self.report, self.max_total_tokens = message.report, message.max_total_tokens
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

    def is_alive(self) -> bool:
        """Whether the core's process runs, and its loop turns or computes a step that doesn't take for ever."""
        now = time.monotonic()
        is_turning = now - self._last_heard < SILENCE_S and now - self._turned < LONGEST_STEP_S
        return self.failure is None and self._ready.is_set() and is_turning

    # -- to the core ---------------------------------------------------------------------------------------------

    def submit(self, prompt: Prompt, deliver: Deliver) -> list[Growth]:
        """Validate, tokenise and queue a prompt's samples; outputs go to `deliver`. Raises RequestError."""
        if self.failure is not None:
            raise RequestError(f"the engine core died: {self.failure}", 503)
        ids = self._input_ids(prompt)
        self._check_volume(prompt, len(ids))
        if prompt.sampling.constraint is not None:
            self._prepare_constraint(prompt.sampling)
        rid = prompt.rid or uuid.uuid4().hex
        growths = []
        for index in range(prompt.sampling.n):
            name = rid if prompt.sampling.n == 1 else f"{rid}-{index}"
            request = self._request(prompt, name, ids, index)
            generation = Generation(name, index, ids, created=time.monotonic())
            growths.append(Growth(generation, request.sampling, self.tokenizer))
            with self._lock:
                if name in self._consumers:
                    raise RequestError(f"request id {name!r} is in use", param="rid")
                self._consumers[name] = deliver
            self._send(request)
        return growths

    def _input_ids(self, prompt: Prompt) -> list[int]:
        if prompt.input_ids is None:
            if self.tokenizer is None:
                raise RequestError("this server has no tokenizer: give input_ids", param="text")
            ids = self.tokenizer.encode(prompt.text or "", prompt.add_special_tokens)
        else:
            ids = prompt.input_ids
        self._check_ids(ids, "input_ids" if prompt.text is None else "text")
        if not ids:
            raise RequestError("the prompt is empty", param="prompt")
        pool = self.max_total_tokens or self.context_tokens
        ids = truncated(prompt, ids, min(self.context_tokens, pool))
        if len(ids) >= min(self.context_tokens, pool):
            raise context_exceeded(len(ids), self.context_tokens, pool)
        return ids

    def _check_volume(self, prompt: Prompt, tokens: int) -> None:
        """Refuse what could be sent to the core, and never run."""
        if prompt.top_logprobs > self.vocab_size:
            message = f"top_logprobs_num must be at most the vocabulary's {self.vocab_size}, got {prompt.top_logprobs}"
            raise RequestError(message, param="top_logprobs_num")
        most, samples = int(self.plan.options["max_queued_tokens"]), prompt.sampling.n
        if samples > 1 and samples * tokens > most:
            message = f"{samples} samples of {tokens} prompt tokens are more than {most} (--max-queued-tokens)"
            raise RequestError(message, param="n")

    def _check_ids(self, ids: list[int], param: str) -> None:
        """A tokenizer may have tokens that the model has no embedding for, and a text that has them can't be served."""
        if not ids or 0 <= min(ids) <= max(ids) < self.vocab_size:
            return
        bad = next(token for token in ids if not 0 <= token < self.vocab_size)
        raise RequestError(f"token id {bad} is outside the model's vocabulary of {self.vocab_size}", param=param)

    def _prepare_constraint(self, sampling: SamplingParams) -> None:
        """Refuse what can't work, and tell the core once what grammars are made of."""
        name = sampling.constraint.kind if sampling.constraint else None
        if self.tokenizer is None:
            raise RequestError(
                f"{name} needs a tokenizer, and this server has none (--skip-tokenizer-init)", param=name
            )
        if self.plan.grammar is None:
            raise RequestError(f"{name} needs a grammar backend: install a plugin that brings one", param=name)
        with self._lock:
            if not self._knows_vocabulary:
                self._send(Vocabulary(self.tokenizer.to_json(), sorted(self.eos_ids)))
                self._knows_vocabulary = True

    def _request(self, prompt: Prompt, rid: str, ids: list[int], index: int) -> Request:
        sampling = prompt.sampling
        if sampling.stop and self.tokenizer is None:
            raise RequestError("stop strings need a tokenizer: use stop_token_ids", param="stop")
        outside = [token for token in sampling.logit_bias or () if not 0 <= token < self.vocab_size]
        if outside:
            raise RequestError(f"logit_bias must hold token ids below {self.vocab_size}", param="logit_bias")
        seed = sampling.sampling_seed
        seed = self._random.getrandbits(63) if seed is None else seed + index
        ends = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else self.eos_ids)
        after = sampling.constraint_after
        if isinstance(after, str) and self.tokenizer is not None:
            after = tuple(self.tokenizer.encode(after, add_special_tokens=False))
        sampling = msgspec.structs.replace(sampling, sampling_seed=seed, n=1, constraint_after=after)
        deadline = None if prompt.timeout_s is None else time.monotonic() + prompt.timeout_s
        return Request(
            rid,
            ids,
            sampling,
            sorted(end for end in ends if 0 <= end < self.vocab_size),
            prompt.logprob_start,
            prompt.top_logprobs,
            prompt.namespace,
            prompt.priority,
            deadline,
        )

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

    def _drop(self, growths: list[Growth]) -> None:
        """Nobody listens any more: end what is left of these."""
        rids = [g.generation.rid for g in growths if not g.generation.is_finished]
        with self._lock:
            for rid in rids:
                self._consumers.pop(rid, None)
        if rids and self.failure is None:
            self._send(Abort(rids))

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
        growths: dict[str, tuple[int, Growth]] = {}
        try:
            for place, prompt in enumerate(prompts):
                growths.update((g.generation.rid, (place, g)) for g in self.submit(prompt, inbox.put))
            remaining = len(growths)
            while remaining:
                for output in inbox.get():
                    place, growth = growths[output.rid]
                    if growth.generation.is_finished:
                        continue
                    self._take(growth, output)
                    remaining -= growth.generation.is_finished
                    yield place, growth.generation
        finally:
            self._drop([growth for _, growth in growths.values()])

    async def astream(self, prompt: Prompt) -> AsyncGenerator[Generation, None]:
        """Each of the prompt's generations after each change. Closing or cancelling it aborts the rest.

        Raises RequestError if the request is refused before it produced anything.
        """
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[list[Output]] = asyncio.Queue()
        growths: dict[str, Growth] = {}

        def deliver(outputs: list[Output]) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, outputs)

        try:
            growths = {g.generation.rid: g for g in await self._submit_async(prompt, deliver)}
            remaining = len(growths)
            while remaining:
                for output in await inbox.get():
                    growth = growths[output.rid]
                    if growth.generation.is_finished:
                        continue
                    self._take(growth, output)
                    _raise_refusal(growth.generation)
                    remaining -= growth.generation.is_finished
                    yield growth.generation
        finally:
            self._drop(list(growths.values()))

    async def _submit_async(self, prompt: Prompt, deliver: Deliver) -> list[Growth]:
        """Long texts are tokenised in a thread, so that nobody else waits."""
        if prompt.text is not None and len(prompt.text) > LONG_TEXT:
            ids = await asyncio.to_thread(self._input_ids, prompt)
            prompt = replace(prompt, text=None, input_ids=ids)
        return self.submit(prompt, deliver)

    def _take(self, growth: Growth, output: Output) -> None:
        if growth.take(output):
            self._drop_rid(growth.generation.rid)

    def _drop_rid(self, rid: str) -> None:
        with self._lock:
            self._consumers.pop(rid, None)
        self._send(Abort([rid]))


SILENCE_S = 5.0
"""After which a core isn't alive: it says every second that it is."""
LONGEST_STEP_S = 300.0
"""After which a core whose loop doesn't turn isn't alive: no step takes as long."""
LONG_TEXT = 4096
"""Characters above which tokenising moves to a thread."""


def truncated(prompt: Prompt, ids: list[int], room: int) -> list[int]:
    """The tokens that the prompt wants to keep of its own, where prompt and answer have `room` for so many."""
    if prompt.keep_tokens is None:
        return ids
    answer = max(prompt.sampling.max_new_tokens or 1, 1)
    count = max(room - answer, 1) if prompt.keep_tokens == -1 else prompt.keep_tokens
    return ids[-count:] if prompt.keeps_end else ids[:count]


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
