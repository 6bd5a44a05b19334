"""Requests that wait until their constraint is a grammar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from sgcore.api import Constraint, Grammar, GrammarBackend
from sgcore.constraints.bans import Anything, Bans
from sgcore.constraints.compiler import Compiler, constraint_key
from sgcore.constraints.masks import MaskFiller
from sgcore.constraints.progress import Progress
from sgcore.engine.messages import Output, Request, SamplingParams, Vocabulary
from sgcore.errors import ConstraintError
from sgcore.plugins.plan import Plan

MOST_WAITING, MOST_WAITING_CHARS = 4096, 32 << 20


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request, and its constraint as the compiler knows it."""

    request: Request
    constraint: Constraint
    key: bytes


class GrammarQueue:
    """Outside of the scheduler: a constraint in work takes no row and no page. Nothing starts before it is needed."""

    def __init__(self, plan: Plan, vocab_size: int) -> None:
        self._plan, self._vocab_size = plan, vocab_size
        self.vocabulary: Vocabulary | None = None
        self.waiting: dict[str, Waiting] = {}
        self.refused: list[Output] = []
        self._chars = 0

    def add(self, request: Request, constraint: Constraint) -> None:
        """Queue a request with a constraint, or refuse it."""
        chars = self._chars + len(constraint.text)
        if self._plan.grammar is None or self.vocabulary is None:
            self._refuse(request.rid, NO_BACKEND, 400)
        elif request.rid in self.waiting:
            self._refuse(request.rid, f"request id {request.rid!r} is in use", 400)
        elif len(self.waiting) >= MOST_WAITING or chars > MOST_WAITING_CHARS:
            self._refuse(request.rid, "too many requests wait for their constraint: try again later", 429)
        else:
            self.waiting[request.rid] = Waiting(request, constraint, constraint_key(constraint))
            self._chars = chars

    def abort(self, rid: str) -> None:
        """End a request; an unknown id isn't here."""
        if rid in self.waiting:
            self._leave(rid)
            self._refuse(rid, "aborted", 499)

    def take_ready(self, now: float) -> Iterator[tuple[Request, Progress]]:
        """Requests whose constraint is a grammar; the others stay, or are refused."""
        for rid, entry in list(self.waiting.items()):
            request = entry.request
            is_late = request.deadline is not None and request.deadline <= now
            found = None if is_late else self._compiler.grammar(entry.constraint, entry.key)
            if found is None and not is_late:
                continue
            self._leave(rid)
            if isinstance(found, ConstraintError):
                self._refuse(rid, str(found), found.status)
            elif found is None:
                self._refuse(rid, "the request's deadline has passed", 504)
            else:
                yield request, self._progress(request, found)

    def unconstrained(self, request: Request) -> Progress | None:
        """What restricts the tokens of a request without a constraint, if anything does."""
        bans = _bans(request.sampling, self._vocab_size)
        return None if bans is None else Progress(Anything(), bans=bans)

    def _progress(self, request: Request, grammar: Grammar) -> Progress:
        """Where log-probabilities are asked for, each token is sampled."""
        after = [token for token in request.sampling.constraint_after if isinstance(token, int)]
        bans = _bans(request.sampling, self._vocab_size)
        return Progress(grammar, after, takes_forced=request.top_logprobs < 0, bans=bans)

    def _leave(self, rid: str) -> None:
        self._chars -= len(self.waiting.pop(rid).constraint.text)

    def _refuse(self, rid: str, message: str, status: int) -> None:
        self.refused.append(Output(rid, [], "abort", message=message, status=status))

    @cached_property
    def _compiler(self) -> Compiler:
        return Compiler(self._create_backend, self._vocab_size)

    @cached_property
    def filler(self) -> MaskFiller:
        """What fills the masks of a step."""
        return MaskFiller(self._vocab_size)

    def _create_backend(self) -> GrammarBackend:
        assert self._plan.grammar is not None and self.vocabulary is not None
        backend: type[GrammarBackend] = self._plan.grammar.load()
        return backend(self.vocabulary.tokenizer, self._vocab_size, self.vocabulary.eos_ids)

    def close(self) -> None:
        for name in ("_compiler", "filler"):
            if name in vars(self):
                vars(self)[name].close()


def _bans(sampling: SamplingParams, vocab_size: int) -> Bans | None:
    words = [word for word in sampling.bad_words if isinstance(word, tuple)]
    return Bans(sampling.allowed_token_ids, words, vocab_size) if words or sampling.allowed_token_ids else None


NO_BACKEND = "this server has no grammar backend: install a plugin that brings one, or send no constraint"
