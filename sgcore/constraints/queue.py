"""Requests that wait until their constraint is a grammar."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from sgcore.api import GrammarBackend
from sgcore.constraints.compiler import Compiler
from sgcore.constraints.masks import MaskFiller
from sgcore.constraints.progress import Progress
from sgcore.engine.messages import Output, Request, Vocabulary
from sgcore.errors import ConstraintError
from sgcore.plugins.plan import Plan

MOST_WAITING = 4096


class GrammarQueue:
    """Outside of the scheduler: a constraint in work takes no row and no page. Nothing starts before it is needed."""

    def __init__(self, plan: Plan, vocab_size: int) -> None:
        self._plan, self._vocab_size = plan, vocab_size
        self.vocabulary: Vocabulary | None = None
        self.waiting: dict[str, Request] = {}
        self.refused: list[Output] = []

    def add(self, request: Request) -> None:
        """Queue a request with a constraint, or refuse it."""
        if self._plan.grammar is None or self.vocabulary is None:
            self._refuse(request.rid, NO_BACKEND, 400)
        elif request.rid in self.waiting:
            self._refuse(request.rid, f"request id {request.rid!r} is in use", 400)
        elif len(self.waiting) >= MOST_WAITING:
            self._refuse(request.rid, f"{MOST_WAITING} requests wait for their constraint", 429)
        else:
            self.waiting[request.rid] = request

    def abort(self, rid: str) -> None:
        """End a request; an unknown id isn't here."""
        if self.waiting.pop(rid, None) is not None:
            self._refuse(rid, "aborted", 499)

    def take_ready(self, now: float) -> Iterator[tuple[Request, Progress]]:
        """Requests whose constraint is a grammar; the others stay, or are refused."""
        for rid, request in list(self.waiting.items()):
            if request.deadline is not None and request.deadline <= now:
                del self.waiting[rid]
                self._refuse(rid, "the request's deadline has passed", 504)
                continue
            assert request.sampling.constraint is not None
            found = self._compiler.grammar(request.sampling.constraint)
            if found is None:
                continue
            del self.waiting[rid]
            if isinstance(found, ConstraintError):
                self._refuse(rid, str(found), found.status)
            else:
                takes_forced = request.top_logprobs < 0
                after = tuple(token for token in request.sampling.constraint_after if isinstance(token, int))
                yield request, Progress(found.start(), after, takes_forced)

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


NO_BACKEND = "this server has no grammar backend: install a plugin that brings one, or send no constraint"
