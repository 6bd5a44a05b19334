"""`/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgcore.engine.messages import SamplingParams
from sgcore.engine.prompt import Prompt
from sgcore.errors import RequestError
from sgcore.server.conversation import template_message
from sgcore.server.native import request_ids
from sgcore.server.openai import (
    Tracker,
    asked_prompt_logprobs,
    check_top_logprobs,
    field_names,
    prompt_fields,
    refuse_not_yet,
    sampling_of,
)
from sgcore.server.protocol import ChatRequest
from sgcore.server.replies import Parsers, Replies, encoded
from sgcore.server.service import Service
from sgcore.server.sse import EventStream, or_disconnect
from sgcore.server.tools import NO_TOOLS, Tools, constraint, tools_of
from sgcore.server.wire import json_response, read

DECODER = msgspec.json.Decoder(ChatRequest)
TEMPLATE_WORDS = frozenset(
    "messages conversation chat_template tokenize add_generation_prompt continue_final_message tools documents "
    "return_tensors return_dict padding truncation max_length tokenizer_kwargs return_assistant_tokens_mask "
    "sanitize_control_tokens".split()
)
"""Arguments of the template's renderer that a client may not set."""


def _template_arguments(body: ChatRequest, tools: Tools) -> dict[str, Any]:
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
    given = {"documents": body.documents, "reasoning_effort": body.reasoning_effort, "tools": tools.for_template()}
    given = {name: value for name, value in given.items() if value}
    return {**extra, **given, "add_generation_prompt": adds, "continue_final_message": continues}


def rendered(service: Service, body: ChatRequest, tools: Tools = NO_TOOLS) -> tuple[list[int], str]:
    """The conversation as token ids, and what of the answer is in it already. Raises `RequestError` 400."""
    if not body.messages:
        raise RequestError("messages is empty", param="messages")
    messages = [template_message(message, position) for position, message in enumerate(body.messages)]
    arguments = _template_arguments(body, tools)
    text = service.tokenizer.apply_chat_template(messages, **arguments)
    ids = service.tokenizer.encode(text, add_special_tokens=bool(body.add_special_tokens))
    return ids, service.format.turn(text) if service.format else ""


def _top_logprobs(body: ChatRequest) -> int:
    if body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    return check_top_logprobs(body.top_logprobs or 0, "top_logprobs") if body.logprobs else -1


def _sampling(service: Service, body: ChatRequest) -> SamplingParams:
    refuse_not_yet(body)
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return sampling_of(body, max_tokens, service.defaults)


def _constrained(service: Service, sampling: SamplingParams, tools: Tools, parsers: Parsers) -> SamplingParams:
    """What the tools ask for is added, and a constraint waits for the end of reasoning that the prompt began."""
    fields: dict[str, Any] = constraint(tools, service.format)
    if tools.is_binding and sampling.constraint is not None:
        raise RequestError(f"a custom tool's grammar and {sampling.constraint.kind} exclude each other", param="tools")
    if not tools.is_binding and (service.frontend.plan.grammar is None or sampling.constraint is not None):
        fields.pop("structural_tag", None)  # strict arguments are a wish: clients' libraries ask for them unasked
    constrained = msgspec.structs.replace(sampling, **fields)
    if constrained.constraint is None or constrained.constraint_after or not parsers.begin_in_reasoning:
        return constrained
    assert service.format is not None
    return msgspec.structs.replace(constrained, constraint_after=service.format.reasoning_end or ())


def chat_replies(service: Service, body: ChatRequest) -> Replies:
    """The request, ready to run. Raises `RequestError` 400."""
    tools = tools_of(body, service.format)
    sampling, top_logprobs = _sampling(service, body), _top_logprobs(body)
    ids, turn = rendered(service, body, tools)
    parsers = Parsers(service.format, turn, tools, body.separate_reasoning is not False)
    hides = sampling.skip_special_tokens and not (service.has_special_marks and parsers.are_needed)
    sampling = msgspec.structs.replace(_constrained(service, sampling, tools, parsers), skip_special_tokens=hides)
    of_prompt = asked_prompt_logprobs(body)
    prompt = Prompt(
        sampling=sampling,
        top_logprobs=max(top_logprobs, of_prompt),
        logprob_start=0 if of_prompt >= 0 else -1,
        rid=request_ids(body.rid or body.request_id, 1, "chatcmpl-")[0],
        input_ids=ids,
        **prompt_fields(body),
    )
    return Replies(service, body, prompt, parsers, _echo(body))


def _echo(body: ChatRequest) -> str:
    """The text of the last message, if answers are to begin with it."""
    if not body.echo or body.messages[-1].role != "assistant":
        return ""
    return str(template_message(body.messages[-1], len(body.messages) - 1)["content"])


async def _events(replies: Replies) -> AsyncGenerator[bytes, None]:
    continuous = bool(replies.options.continuous_usage_stats)
    tracker = Tracker(bool(replies.body.logprobs), continuous, bool(replies.body.return_token_ids))
    async with aclosing(replies.service.run([replies.prompt])) as batches:
        async for changes in batches:
            chunks = [chunk for news in tracker.news(changes) for chunk in replies.chunks(news)]
            usage = replies.usage(tracker.latest.values()) if continuous and chunks else None
            if chunks:
                yield b"".join(encoded(chunk, usage) for chunk in chunks)
    if replies.options.include_usage:
        yield encoded(replies.chunk([]), await replies.final_usage(list(tracker.latest.values())))


async def chat_completions(request: Request) -> Response:
    """Answer a conversation, OpenAI's way."""
    service: Service = request.app.state.service
    body = await read(request, DECODER, service.options.max_body_bytes)
    request.state.field_names = field_names(body, "messages", "top_logprobs")
    if body.max_completion_tokens is not None:
        request.state.field_names |= {"max_new_tokens": "max_completion_tokens"}
    service.check_model(body.model)
    replies = await service.as_conversation(chat_replies, service, body)
    if body.stream:
        return EventStream(_events(replies))
    (generations,) = await or_disconnect(request, service.complete([replies.prompt]))
    return await service.reply(generations, lambda: json_response(replies.completion(generations)))
