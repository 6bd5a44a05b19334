"""The one way in: text or token ids to the core, tokens back to text, for the engine and the server alike."""

from __future__ import annotations

import asyncio
import itertools
import queue
import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import msgspec

from sgcore.engine.checkpoint import Checkpoint, read_checkpoint, with_end_tokens
from sgcore.engine.limits import (
    MAX_LOGPROB_ENTRIES,
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
from sgcore.engine.sampling import preferred_sampling
from sgcore.engine.stop_patterns import StopPatterns
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


Deliver = Callable[[list[Output]], None]
"""Takes outputs for one consumer; called on the thread that receives from the core."""
Changes = list[tuple[int, Generation]]
"""Generations that changed, each with its prompt's place."""


class Send(Protocol):
    """Sends messages to the core, all or none. Raises RequestError for one that can't be encoded."""

    def __call__(self, *messages: ToCore) -> None: ...


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
            ids = self._input_ids(prompt)
            self._check_volume(prompt, len(ids))
            if prompt.sampling.constraint is not None:
                self._prepare_constraint(prompt.sampling)
            rid = prompt.rid or uuid.uuid4().hex
            sampling = self._with_tokens(prompt.sampling)
            for index in range(prompt.sampling.n):
                name = rid if prompt.sampling.n == 1 else f"{rid}-{index}"
                request = self._request(prompt, sampling, name, ids, index, body)
                generation = Generation(name, index, ids, created=time.monotonic())
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
        if max(prompt.sampling.logprob_token_ids, default=0) >= self.vocab_size:
            message = f"token_ids_logprob must hold token ids below {self.vocab_size}"
            raise RequestError(message, param="token_ids_logprob")
        self._check_logprob_entries(prompt, tokens)
        most, samples = int(self.plan.options["max_queued_tokens"]), prompt.sampling.n
        if samples > 1 and samples * tokens > most:
            message = f"{samples} samples of {tokens} prompt tokens are more than {most} (--max-queued-tokens)"
            raise RequestError(message, param="n")

    def _check_logprob_entries(self, prompt: Prompt, tokens: int) -> None:
        """Refuse a reply of log-probabilities that nobody could read and that takes seconds to write."""
        if prompt.top_logprobs < 0:
            return
        sampling, room = prompt.sampling, self.context_tokens - tokens
        new = room if sampling.max_new_tokens is None else min(sampling.max_new_tokens, room)
        listed = tokens - prompt.logprob_start if prompt.logprob_start >= 0 else 0
        entries = sampling.n * (new + max(listed, 0)) * (1 + prompt.top_logprobs + len(sampling.logprob_token_ids))
        if entries > MAX_LOGPROB_ENTRIES:
            message = f"{entries:,} log-probabilities are asked for; the most of a request is {MAX_LOGPROB_ENTRIES:,}"
            raise RequestError(f"{message}: fewer top tokens, or max_new_tokens", param="top_logprobs_num")

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

    def _with_tokens(self, sampling: SamplingParams) -> SamplingParams:
        """The texts that the core looks for, as token ids."""
        if sampling.bad_words and self.tokenizer is None:
            raise RequestError("bad_words need a tokenizer, and this server has none", param="bad_words")
        if sampling.allowed_token_ids and max(sampling.allowed_token_ids) >= self.vocab_size:
            message = f"allowed_token_ids must hold token ids below {self.vocab_size}"
            raise RequestError(message, param="allowed_token_ids")
        if self.tokenizer is None:
            return sampling
        after = sampling.constraint_after
        if isinstance(after, str):
            after = tuple(self.tokenizer.encode(after, add_special_tokens=False))
        words = tuple(tokens for word in sampling.bad_words for tokens in self._word_tokens(word))
        return msgspec.structs.replace(sampling, constraint_after=after, bad_words=words)

    def _word_tokens(self, word: str | tuple[int, ...]) -> list[tuple[int, ...]]:
        """The tokens of a word that continues a text, without and with a space before it."""
        if self.tokenizer is None or not isinstance(word, str):
            return []
        plain = word.lstrip() or word
        found = [tuple(self.tokenizer.encode_more(text)) for text in (plain, f" {plain}")]
        return [tokens for tokens in found if tokens and max(tokens) < self.vocab_size]

    def _request(
        self, prompt: Prompt, sampling: SamplingParams, rid: str, ids: list[int], index: int, body: str
    ) -> Request:
        if (sampling.stop or sampling.stop_regex) and self.tokenizer is None:
            name = "stop" if sampling.stop else "stop_regex"
            raise RequestError(f"{name} needs a tokenizer: use stop_token_ids", param=name)
        outside = [token for token in sampling.logit_bias or () if not 0 <= token < self.vocab_size]
        if outside:
            raise RequestError(f"logit_bias must hold token ids below {self.vocab_size}", param="logit_bias")
        seed = sampling.sampling_seed
        seed = self._random.getrandbits(63) if seed is None else seed + index
        ends = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else self.eos_ids)
        if sampling.min_new_tokens and sampling.allowed_token_ids and ends.issuperset(sampling.allowed_token_ids):
            message = "allowed_token_ids has end tokens alone, which min_new_tokens forbids"
            raise RequestError(message, param="allowed_token_ids")
        sampling = msgspec.structs.replace(sampling, sampling_seed=seed, n=1)
        deadline = None if prompt.timeout_s is None else time.monotonic() + prompt.timeout_s
        return Request(
            rid,
            ids,
            sampling,
            sorted(end for end in ends if 0 <= end < self.vocab_size),
            prompt.logprob_start,
            prompt.top_logprobs,
            prompt.namespace,
            deadline,
            body,
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
