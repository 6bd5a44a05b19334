"""`/v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgcore.engine.frontend import Generation, Prompt
from sgcore.engine.messages import TokenLogprobs
from sgcore.errors import RequestError
from sgcore.server.native import request_ids, request_priority, request_timeout
from sgcore.server.openai import (
    News,
    Tracker,
    chat_logprobs,
    check_top_logprobs,
    refuse_not_yet,
    sampling_of,
    usage_of,
)
from sgcore.server.protocol import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    ChunkChoice,
    ContentPart,
    Delta,
    Message,
    ReplyMessage,
    StreamOptions,
    Usage,
)
from sgcore.server.service import Service
from sgcore.server.sse import EventStream, event, or_disconnect
from sgcore.server.wire import ENCODER, json_response, read

DECODER = msgspec.json.Decoder(ChatRequest)
TEMPLATE_WORDS = frozenset(
    "messages conversation chat_template tokenize add_generation_prompt continue_final_message tools documents "
    "return_tensors return_dict padding truncation max_length tokenizer_kwargs return_assistant_tokens_mask".split()
)
"""Arguments of the template's renderer that a client may not set."""


def _text_of(part: str | ContentPart, where: str) -> str:
    if isinstance(part, str):
        return part
    if part.type not in ("text", "input_text"):
        message = f"content part {part.type[:64]!r} is not supported by this model; only text is"
        raise RequestError(message, param=where, code="unsupported_content")
    if part.text is None:
        raise RequestError("a content part of type text has no text", param=where)
    return part.text


def template_message(message: Message, position: int) -> dict[str, Any]:
    """A message as chat templates know it: content is one string."""
    where = f"messages[{position}].content"
    plain: dict[str, Any] = msgspec.to_builtins(message)
    if isinstance(message.content, list):
        plain["content"] = "\n".join(_text_of(part, where) for part in message.content)
    plain.setdefault("content", "")
    if message.role == "developer":
        plain["role"] = "system"
    return plain


def _template_arguments(body: ChatRequest) -> dict[str, Any]:
    extra = body.chat_template_kwargs or {}
    for name in extra:
        if name in TEMPLATE_WORDS:
            raise RequestError(f"chat_template_kwargs may not set {name!r}", param="chat_template_kwargs")
    continues = bool(body.continue_final_message)
    adds = not continues if body.add_generation_prompt is None else body.add_generation_prompt
    if continues and adds:
        message = "continue_final_message and add_generation_prompt exclude each other"
        raise RequestError(message, param="continue_final_message")
    if continues and body.messages[-1].role != "assistant":
        message = "continue_final_message needs a last message of the assistant"
        raise RequestError(message, param="continue_final_message")
    return {**extra, "add_generation_prompt": adds, "continue_final_message": continues}


async def chat_ids(service: Service, body: ChatRequest) -> list[int]:
    """The rendered conversation as token ids. Raises `RequestError` 400."""
    if not body.messages:
        raise RequestError("messages is empty", param="messages")
    messages = [template_message(message, position) for position, message in enumerate(body.messages)]
    arguments = _template_arguments(body)
    tokenizer = service.tokenizer

    def render() -> list[int]:
        text = tokenizer.apply_chat_template(messages, **arguments)
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    chars = sum(64 + len(message["content"]) for message in messages)
    return await service.off_loop(chars, render)


def _top_logprobs(body: ChatRequest) -> int:
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    return check_top_logprobs(body.top_logprobs or 0, "top_logprobs") if body.logprobs else -1


async def _prompt(service: Service, body: ChatRequest) -> Prompt:
    refuse_not_yet(body)
    is_new = body.max_completion_tokens is not None
    max_tokens = body.max_completion_tokens if is_new else body.max_tokens
    max_name = "max_completion_tokens" if is_new else "max_tokens"
    return Prompt(
        sampling=sampling_of(body, max_tokens, service.defaults, max_name),
        top_logprobs=_top_logprobs(body),
        rid=request_ids(body.rid, 1, "chatcmpl-")[0],
        priority=request_priority(body.priority),
        timeout_s=request_timeout(body.timeout),
        namespace=body.cache_salt or "",
        input_ids=await chat_ids(service, body),
    )


class Replies:
    """Makes the choices of one request's answer."""

    def __init__(self, service: Service, body: ChatRequest, prompt: Prompt) -> None:
        self.service = service
        self.text_of = service.tokenizer.token_text
        self.body = body
        self.prompt = prompt
        self.options = body.stream_options or StreamOptions()
        self.created = int(time.time())
        self.model = service.check_model(body.model)

    def logprobs(self, entries: list[TokenLogprobs]) -> ChatLogprobs | None:
        """Log-probabilities, if asked for."""
        return ChatLogprobs(chat_logprobs(entries, self.text_of)) if self.body.logprobs else None

    def whole(self, generation: Generation) -> ChatChoice:
        """A finished choice."""
        message = ReplyMessage(generation.text)
        logprobs = self.logprobs(generation.logprobs)
        return ChatChoice(generation.index, message, logprobs, generation.finish, generation.matched)

    def blocks(self, news: News, usage: Usage | None) -> list[bytes]:
        """What is new of a choice: the role before anything else, the reason in a chunk of its own at the end."""
        generation, index = news.generation, news.generation.index
        choices = [ChunkChoice(index, Delta(role="assistant", content=""))] if news.is_first else []
        if news.text or news.logprobs or not (news.is_first or generation.finish):
            choices.append(ChunkChoice(index, Delta(content=news.text), self.logprobs(news.logprobs)))
        if generation.finish:
            choices.append(ChunkChoice(index, Delta(), None, generation.finish, generation.matched))
        return [self.block([choice], usage) for choice in choices]

    def block(self, choices: list[ChunkChoice], usage: Usage | None) -> bytes:
        """One chunk as an event."""
        chunk = ChatChunk(self.prompt.rid or "", self.created, self.model, choices)
        if usage is not None:
            chunk.usage = usage
        return event(ENCODER.encode(chunk))


async def _events(replies: Replies) -> AsyncGenerator[bytes, None]:
    continuous = bool(replies.options.continuous_usage_stats)
    tracker = Tracker(bool(replies.body.logprobs), continuous)
    async with aclosing(replies.service.run([replies.prompt])) as batches:
        async for changes in batches:
            fresh = list(tracker.news(changes))
            usage = tracker.usage() if continuous and fresh else None
            if fresh:
                yield b"".join(block for news in fresh for block in replies.blocks(news, usage))
    if replies.options.include_usage:
        yield replies.block([], tracker.usage())


async def chat_completions(request: Request) -> Response:
    """Answer a conversation, OpenAI's way."""
    service: Service = request.app.state.service
    body = await read(request, DECODER, service.options.max_body_bytes)
    service.check_model(body.model)
    replies = Replies(service, body, await _prompt(service, body))
    if body.stream:
        return EventStream(_events(replies))
    (generations,) = await or_disconnect(request, service.complete([replies.prompt]))
    choices = [replies.whole(generation) for generation in generations]
    usage = usage_of(generations)
    return json_response(ChatCompletion(replies.prompt.rid or "", replies.created, replies.model, choices, usage))
