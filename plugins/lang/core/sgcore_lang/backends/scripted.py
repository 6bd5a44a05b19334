"""Answers that are written beforehand, for tests of programs without a model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from sgcore.lang import Generate, Generated, Score
from sgcore_lang.backend import PLAIN_TURNS, Backend, Call, Progress, Reply, Turns, refuse_media
from sgcore_lang.errors import BackendError

Answer: TypeAlias = "Callable[[str, Generate | Score], str]"
REMEMBERED = 1000


class Scripted(Backend):
    """`answers`: a list, taken in order; a mapping from how the text ends to the answer; or a function of both.

    A token is a byte of UTF-8, so that token-level state can be tested too. Raises BackendError where the script has no
    answer, or one that is no choice. `delay_s` is how long each request takes, and each character of a stream.
    """

    takes_programs = True

    def __init__(
        self,
        answers: Sequence[str] | Mapping[str, str] | Answer,
        delay_s: float = 0.0,
        turns: Turns = PLAIN_TURNS,
        takes_programs: bool = True,
    ) -> None:
        self._answer = (
            answers if callable(answers) else _by_end(answers) if isinstance(answers, Mapping) else _in_order(answers)
        )
        self._delay_s = delay_s
        self._turns = turns
        self.takes_programs = takes_programs
        self.calls: deque[Call] = deque(maxlen=REMEMBERED)
        """The last requests."""
        self.requests = 0
        self.running = 0
        self.most_running = 0
        self.pinned: set[str] = set()

    async def turns(self) -> Turns:
        return self._turns

    async def run(self, call: Call, progress: Progress | None = None) -> Reply:
        refuse_media(call, "a script sees text only")
        self.calls.append(call)
        self.requests += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self._delay_s)
            return await self._reply(call, progress)
        finally:
            self.running -= 1

    async def _reply(self, call: Call, progress: Progress | None) -> Reply:
        text, results, error = bytes(call.ids or ()).decode() or call.text, list[Generated](), None
        before = len(text.encode())
        for place, piece in enumerate(call.pieces):
            if isinstance(piece, str):
                text += piece
                continue
            try:
                result = self._result(text, piece)
            except BackendError as failure:
                error = failure
                break
            await self._show(progress, place, result.text)
            results.append(result)
            text += result.text
        if call.group is not None:
            self.pinned.add(call.group[0])
        ids = list(text.encode())
        return Reply(results, ids, error, {"prompt_tokens": len(ids), "cached_tokens": before, "completion_tokens": 0})

    def _result(self, text: str, piece: object) -> Generated:
        assert isinstance(piece, Generate | Score)
        count = piece.params.get("n", 1) if isinstance(piece, Generate) else 1
        texts = tuple(_cut(self._answer(text, piece), piece) for _ in range(count))
        if isinstance(piece, Score) and texts[0] not in piece.choices:
            raise BackendError(f"the script chose {texts[0]!r}, which is none of {', '.join(piece.choices)}")
        return Generated(texts[0], texts, {"finish_reason": {"type": "stop", "matched": None}})

    async def _show(self, progress: Progress | None, place: int, text: str) -> None:
        """A stream brings one character after the other."""
        if progress is not None:
            for end in range(1, len(text) + 1):
                progress(place, text[:end], {"finish_reason": None, "completion_tokens": len(text[:end].encode())})
                await asyncio.sleep(self._delay_s)

    async def render(self, messages: Sequence[Mapping[str, str]], continues: bool) -> Sequence[int]:
        text = "".join(f"[{message['role']}] {message['content']}\n" for message in messages)
        return list((text.removesuffix("\n") if continues else text + "[assistant] ").encode())

    async def release(self, group: str) -> None:
        self.pinned.discard(group)

    async def flush_cache(self) -> None:
        self.pinned.clear()

    async def server_info(self) -> Mapping[str, int]:
        return {"requests": self.requests}


def _in_order(answers: Sequence[str]) -> Answer:
    left = iter(answers)

    def answer(text: str, request: Generate | Score) -> str:
        for found in left:
            return found
        raise BackendError(f"the script has no answer left; the text ends in {text[-60:]!r}")

    return answer


def _by_end(answers: Mapping[str, str]) -> Answer:
    def answer(text: str, request: Generate | Score) -> str:
        fitting = [end for end in answers if text.endswith(end)]
        if not fitting:
            raise BackendError(f"the script has no answer where the text ends in {text[-60:]!r}")
        return answers[max(fitting, key=len)]

    return answer


def _cut(text: str, piece: Generate | Score) -> str:
    """A generation up to its first stop string."""
    stops = piece.params.get("stop") or () if isinstance(piece, Generate) else ()
    places = [text.find(stop) for stop in stops if stop in text]
    return text[: min(places, default=len(text))]
