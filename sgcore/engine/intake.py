"""From a prompt to requests that the core takes: tokens, and the bounds that the vocabulary and the context set."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Collection

import msgspec

from sgcore.engine.limits import MAX_LOGPROB_ENTRIES, context_exceeded
from sgcore.engine.messages import Request, SamplingParams
from sgcore.engine.prompt import Prompt
from sgcore.errors import RequestError
from sgcore.plugins.plan import Plan
from sgcore.tokenizer.tokenizer import Tokenizer


class Intake:
    """Tokenises and checks prompts. Every way to the core goes through here, so no bound is another route's own."""

    def __init__(self, plan: Plan, tokenizer: Tokenizer | None, eos_ids: frozenset[int]) -> None:
        self.tokenizer, self.eos_ids = tokenizer, eos_ids
        self.vocab_size = int(plan.hf_config["vocab_size"])
        self.context_tokens = plan.context_tokens
        self.max_total_tokens = 0
        """What the cache holds, once the core has told; 0: not known yet."""
        self._has_grammars = plan.grammar is not None
        self._max_queued_tokens = int(plan.options["max_queued_tokens"])
        self._random = random.Random(int(plan.options["random_seed"]))

    def requests(self, prompt: Prompt, body: str) -> list[Request]:
        """A prompt's samples, as requests of the same `body`. Raises RequestError."""
        ids = self._input_ids(prompt)
        self._check_volume(prompt, len(ids))
        if prompt.sampling.constraint is not None:
            self._check_constraint(prompt.sampling.constraint.kind)
        sampling, ends = self._with_tokens(prompt.sampling), self._ends(prompt.sampling)
        rid, samples = prompt.rid or uuid.uuid4().hex, sampling.n
        deadline = None if prompt.timeout_s is None else time.monotonic() + prompt.timeout_s
        return [
            Request(
                rid if samples == 1 else f"{rid}-{index}",
                ids,
                msgspec.structs.replace(sampling, sampling_seed=self._seed(sampling.sampling_seed, index), n=1),
                ends,
                prompt.logprob_start,
                prompt.top_logprobs,
                prompt.namespace,
                deadline,
                body,
            )
            for index in range(samples)
        ]

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
        self._check_vocabulary("token_ids_logprob", prompt.sampling.logprob_token_ids)
        self._check_logprob_entries(prompt, tokens)
        most, samples = self._max_queued_tokens, prompt.sampling.n
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

    def _check_vocabulary(self, name: str, tokens: Collection[int]) -> None:
        if max(tokens, default=0) >= self.vocab_size:
            raise RequestError(f"{name} must hold token ids below {self.vocab_size}", param=name)

    def _check_constraint(self, kind: str) -> None:
        if self.tokenizer is None:
            raise RequestError(
                f"{kind} needs a tokenizer, and this server has none (--skip-tokenizer-init)", param=kind
            )
        if not self._has_grammars:
            raise RequestError(f"{kind} needs a grammar backend: install a plugin that brings one", param=kind)

    def _with_tokens(self, sampling: SamplingParams) -> SamplingParams:
        """The texts that the core looks for, as token ids. Raises RequestError for texts and ids that it can't have."""
        if sampling.bad_words and self.tokenizer is None:
            raise RequestError("bad_words need a tokenizer, and this server has none", param="bad_words")
        self._check_vocabulary("allowed_token_ids", sampling.allowed_token_ids)
        if (sampling.stop or sampling.stop_regex) and self.tokenizer is None:
            name = "stop" if sampling.stop else "stop_regex"
            raise RequestError(f"{name} needs a tokenizer: use stop_token_ids", param=name)
        self._check_vocabulary("logit_bias", sampling.logit_bias or ())
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

    def _ends(self, sampling: SamplingParams) -> list[int]:
        """Token ids that end an answer."""
        ends = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else self.eos_ids)
        if sampling.min_new_tokens and sampling.allowed_token_ids and ends.issuperset(sampling.allowed_token_ids):
            message = "allowed_token_ids has end tokens alone, which min_new_tokens forbids"
            raise RequestError(message, param="allowed_token_ids")
        return sorted(end for end in ends if 0 <= end < self.vocab_size)

    def _seed(self, seed: int | None, index: int) -> int:
        """The seed of a sample, a signed integer of 64 bits: behind the largest comes the smallest."""
        if seed is None:
            return self._random.getrandbits(63)
        return (seed + index + (1 << 63)) % (1 << 64) - (1 << 63)


def truncated(prompt: Prompt, ids: list[int], room: int) -> list[int]:
    """The tokens that the prompt wants to keep of its own, where prompt and answer have `room` for so many."""
    if prompt.keep_tokens is None:
        return ids
    answer = max(prompt.sampling.max_new_tokens or 1, 1)
    count = max(room - answer, 1) if prompt.keep_tokens == -1 else prompt.keep_tokens
    return ids[-count:] if prompt.keeps_end else ids[:count]
