"""The choices of one chat request, whole and in chunks."""

from __future__ import annotations

import time
from dataclasses import dataclass

from msgspec import UNSET

from sgcore.engine.frontend import Generation, Prompt
from sgcore.engine.messages import TokenLogprobs
from sgcore.parsing.formats import Format
from sgcore.parsing.parser import Parser
from sgcore.server.answer import Answer, delta_of, message_of
from sgcore.server.openai import IdNames, News, chat_logprobs, prompt_logprobs
from sgcore.server.protocol import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    ChunkChoice,
    Delta,
    StreamOptions,
    Usage,
)
from sgcore.server.service import Service
from sgcore.server.sse import event
from sgcore.server.tools import Tools
from sgcore.server.wire import ENCODER


@dataclass(frozen=True)
class Parsers:
    """Makes a parser for each choice; they all begin where the prompt ends."""

    format: Format | None
    turn: str
    tools: Tools
    separate_reasoning: bool

    @property
    def are_needed(self) -> bool:
        """Whether anything but content can be in an answer."""
        return self.format is not None and bool(self.tools.allowed or self.format.has_reasoning)

    def one(self) -> Parser | None:
        """A new parser; None where all text is content."""
        if self.format is None or not self.are_needed:
            return None
        format = self.format.with_listed_calls() if self.tools.is_forced else self.format
        return Parser(format, self.turn, self.tools.allowed, self.separate_reasoning)

    @property
    def begin_in_reasoning(self) -> bool:
        """The prompt has opened reasoning, and the answer goes on in it."""
        parser = self.one()
        return parser is not None and parser.is_reasoning


class Replies:
    """Makes the choices of one request's answer."""

    def __init__(self, service: Service, body: ChatRequest, prompt: Prompt, parsers: Parsers, echo: str = "") -> None:
        """`echo`: text that each answer begins with."""
        self.service = service
        self.names = IdNames() if body.return_tokens_as_token_ids else service.tokenizer
        self.echo = echo
        self.body = body
        self.prompt = prompt
        self.parsers = parsers
        self.options = body.stream_options or StreamOptions()
        self.created = int(time.time())
        self.model = service.check_model(body.model)
        self._answers: dict[int, Answer] = {}

    def _answer(self, index: int) -> Answer:
        if index not in self._answers:
            streams = self.body.stream_reasoning is not False
            self._answers[index] = Answer(self.parsers.one(), streams, self.parsers.tools.only_one)
        return self._answers[index]

    def logprobs(self, entries: list[TokenLogprobs]) -> ChatLogprobs | None:
        """Log-probabilities, if asked for."""
        count = self.body.top_logprobs or 0
        return ChatLogprobs(chat_logprobs(entries, count, self.names)) if self.body.logprobs else None

    def whole(self, generation: Generation) -> ChatChoice:
        """A finished choice."""
        answer = self._answer(generation.index)
        message = message_of(answer.add(generation.text, True, _is_cut(generation)))
        if self.echo:
            message.content = self.echo + (message.content or "")
        logprobs, reason = self.logprobs(generation.logprobs), answer.finish_reason(generation.finish)
        ids = generation.output_ids if self.body.return_token_ids else UNSET
        return ChatChoice(generation.index, message, logprobs, reason, generation.matched, ids)

    def completion(self, generations: list[Generation], usage: Usage) -> ChatCompletion:
        """The whole answer."""
        choices = [self.whole(generation) for generation in generations]
        found = ChatCompletion(self.prompt.rid or "", self.created, self.model, choices, usage)
        first = generations[0]
        if self.body.prompt_logprobs is not None:
            found.prompt_logprobs = prompt_logprobs(first.prompt_logprobs, self.body.prompt_logprobs, self.names)
        if self.body.return_token_ids:
            found.prompt_token_ids = first.prompt_ids
        return found

    def blocks(self, news: News, usage: Usage | None) -> list[bytes]:
        """What is new of a choice: the role before anything else, the reason in a chunk of its own at the end."""
        generation, index = news.generation, news.generation.index
        answer = self._answer(index)
        choices = [ChunkChoice(index, Delta(role="assistant", content=""))] if news.is_first else []
        if news.is_first and self.echo:
            choices.append(ChunkChoice(index, Delta(content=self.echo)))
        deltas = [delta_of(piece) for piece in answer.add(news.text, generation.is_finished, _is_cut(generation))]
        if not deltas and (news.logprobs or news.token_ids or not (news.is_first or generation.finish)):
            deltas.append(Delta(content=""))
        for delta in deltas:
            choices.append(ChunkChoice(index, delta))
            if delta is deltas[0]:
                choices[-1].logprobs = self.logprobs(news.logprobs)
                choices[-1].token_ids = news.token_ids or UNSET
        if generation.finish:
            reason = answer.finish_reason(generation.finish)
            choices.append(ChunkChoice(index, Delta(), None, reason, generation.matched))
        blocks = [self.block([choice], usage) for choice in choices[1:]]
        ids = generation.prompt_ids if self.body.return_token_ids and news.is_first else None
        return [self.block(choices[:1], usage, ids), *blocks] if choices else []

    def block(self, choices: list[ChunkChoice], usage: Usage | None, prompt_ids: list[int] | None = None) -> bytes:
        """One chunk as an event."""
        chunk = ChatChunk(self.prompt.rid or "", self.created, self.model, choices)
        if prompt_ids is not None:
            chunk.prompt_token_ids = prompt_ids
        if usage is not None:
            chunk.usage = usage
        return event(ENCODER.encode(chunk))


def _is_cut(generation: Generation) -> bool:
    """The model would have gone on: it wasn't a token of its own that ended the answer."""
    return generation.finish != "stop" or isinstance(generation.matched, str)
