"""The choices of one chat request, whole and in chunks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import UNSET

from sgcore.engine.generation import Generation
from sgcore.engine.messages import TokenLogprobs
from sgcore.engine.prompt import Prompt
from sgcore.parsing.formats import Format
from sgcore.parsing.parser import Parser
from sgcore.server.answer import Answer
from sgcore.server.openai import IdNames, News, chat_logprobs, prompt_logprobs, usage_of
from sgcore.server.protocol import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    ChunkChoice,
    CompletionTokensDetails,
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
        return bool(self.tools.allowed) or (self.format is not None and self.format.has_reasoning)

    def one(self) -> Parser | None:
        """A new parser; None where all text is content. Forced calls need no format of the model's own."""
        if not self.are_needed:
            return None
        format = self.format or Format((), (), None)
        format = format.with_listed_calls() if self.tools.is_forced else format
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
        self.tokenizer = service.tokenizer
        self.names = IdNames() if body.return_tokens_as_token_ids else self.tokenizer
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
            self._answers[index] = Answer(self.parsers.one(), streams, self.parsers.tools)
        return self._answers[index]

    def logprobs(self, entries: list[TokenLogprobs]) -> ChatLogprobs | None:
        """Log-probabilities, if asked for."""
        count = self.body.top_logprobs or 0
        return ChatLogprobs(chat_logprobs(entries, count, self.names)) if self.body.logprobs else None

    def whole(self, generation: Generation) -> ChatChoice:
        """A finished choice."""
        answer = self._answer(generation.index)
        message = answer.message(answer.add(generation.text, True, _is_cut(generation)))
        if self.echo:
            message.content = self.echo + (message.content or "")
        logprobs, reason = self.logprobs(generation.logprobs), answer.finish_reason(generation.finish)
        ids = generation.output_ids if self.body.return_token_ids else UNSET
        return ChatChoice(generation.index, message, logprobs, reason, generation.matched, ids)

    def completion(self, generations: list[Generation]) -> ChatCompletion:
        """The whole answer."""
        choices = [self.whole(generation) for generation in generations]
        usage = self.usage(generations)
        found = ChatCompletion(self.prompt.rid or "", self.created, self.model, choices, usage)
        first = generations[0]
        if self.body.prompt_logprobs is not None:
            found.prompt_logprobs = prompt_logprobs(first.prompt_logprobs, self.body.prompt_logprobs, self.names)
        if self.body.return_token_ids:
            found.prompt_token_ids = first.prompt_ids
        return found

    def chunks(self, news: News) -> list[ChatChunk]:
        """What is new of a choice, each part in a chunk of its own; the first has what is said of the prompt."""
        chunks = [self.chunk([choice]) for choice in self._parts(news)]
        if chunks and self.body.return_token_ids and news.is_first:
            chunks[0].prompt_token_ids = news.generation.prompt_ids
        return chunks

    def _parts(self, news: News) -> list[ChunkChoice]:
        """The role before anything else, the reason at the end."""
        generation, index = news.generation, news.generation.index
        answer = self._answer(index)
        choices = [ChunkChoice(index, Delta(role="assistant", content=""))] if news.is_first else []
        if news.is_first and self.echo:
            choices.append(ChunkChoice(index, Delta(content=self.echo)))
        deltas = [answer.delta(piece) for piece in answer.add(news.text, generation.is_finished, _is_cut(generation))]
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
        return choices

    def chunk(self, choices: list[ChunkChoice]) -> ChatChunk:
        """One chunk of the stream."""
        return ChatChunk(self.prompt.rid or "", self.created, self.model, choices)

    def usage(self, generations: Iterable[Generation]) -> Usage:
        """Tokens of these generations, whose texts the answers have."""
        generations = list(generations)
        usage = usage_of(generations)
        reasoning = sum(self._reasoning_tokens(generation) for generation in generations)
        usage.completion_tokens_details = CompletionTokensDetails(reasoning)
        return usage

    async def final_usage(self, generations: list[Generation]) -> Usage:
        """The same, off the loop; to find where long reasoning ended takes milliseconds."""
        return await self.service.off_loop(sum(len(each.text) for each in generations), self.usage, generations)

    def _reasoning_tokens(self, generation: Generation) -> int:
        ids, sampling = generation.output_ids, self.prompt.sampling
        skips, spaces = sampling.skip_special_tokens, sampling.spaces_between_special_tokens

        def tokens_to(place: int) -> int:
            return int(self.tokenizer.tokens_to(place, ids, skips, spaces)) if place else 0

        return self._answer(generation.index).reasoning_tokens(len(ids), tokens_to)


def encoded(chunk: ChatChunk, usage: Usage | None) -> bytes:
    """A chunk as an event."""
    if usage is not None:
        chunk.usage = usage
    return event(ENCODER.encode(chunk))


def _is_cut(generation: Generation) -> bool:
    """The model would have gone on: it wasn't a token of its own that ended the answer."""
    return generation.finish != "stop" or isinstance(generation.matched, str)
