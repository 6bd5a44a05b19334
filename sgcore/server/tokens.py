"""`/tokenize` and `/detokenize`: the served model's own tokenizer."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgcore.errors import RequestError
from sgcore.server.chat import rendered
from sgcore.server.native import count_of, split_ids
from sgcore.server.protocol import ChatRequest, Message
from sgcore.server.service import BYTES_A_CHAR, Service
from sgcore.server.wire import json_response, read
from sgcore.tokenizer.tokenizer import Tokenizer

CALL_CHARS = 64
"""Characters that are tokenised while the tokenizer is called."""


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Text, several texts, or a conversation."""

    prompt: str | list[str] | None = None
    messages: list[Message] | None = None
    model: str | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class TokenizeReply(msgspec.Struct):
    """Token ids; lists of them for a list of texts."""

    tokens: list[int | list[int]]
    count: int | list[int]
    max_model_len: int


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Token ids, or a list of lists of them."""

    tokens: list[int | list[int]]
    model: str | None = None
    skip_special_tokens: bool = True


class DetokenizeReply(msgspec.Struct):
    """Their text; a list of texts for a list of lists."""

    text: str | list[str]


TOKENIZE = msgspec.json.Decoder(TokenizeRequest)
DETOKENIZE = msgspec.json.Decoder(DetokenizeRequest)


async def tokenize(request: Request) -> Response:
    """Text or messages to token ids."""
    service: Service = request.app.state.service
    body = await read(request, TOKENIZE, service.options.max_body_bytes)
    service.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("give exactly one of prompt and messages", param="prompt")
    tokens = await _encode(service, body)
    is_many = isinstance(body.prompt, list)
    count: Any = [len(ids) for ids in tokens] if is_many else len(tokens)
    return json_response(TokenizeReply(tokens, count, service.frontend.context_tokens))


async def _encode(service: Service, body: TokenizeRequest) -> list[Any]:
    if body.messages is not None:
        chat = ChatRequest(
            messages=body.messages,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
            chat_template_kwargs=body.chat_template_kwargs,
        )
        return (await service.as_conversation(rendered, service, chat))[0]
    encode, special = service.tokenizer.encode, body.add_special_tokens
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt or []
    service.check_count(len(texts), "prompt")
    size = sum(map(len, texts)) + CALL_CHARS * len(texts)
    found = await service.off_loop(size, lambda: [encode(text, special) for text in texts])
    return found if isinstance(body.prompt, list) else found[0]


async def detokenize(request: Request) -> Response:
    """Token ids to text."""
    service: Service = request.app.state.service
    body = await read(request, DETOKENIZE, service.options.max_body_bytes)
    service.check_model(body.model)
    service.check_count(count_of(body.tokens), "tokens")
    texts = await service.off_loop(request.state.body_bytes // BYTES_A_CHAR, _decode, service.tokenizer, body)
    is_many = bool(body.tokens) and isinstance(body.tokens[0], list)
    return json_response(DetokenizeReply(texts if is_many else texts[0]))


def _decode(tokenizer: Tokenizer, body: DetokenizeRequest) -> list[str]:
    rows = split_ids(body.tokens, "tokens") if body.tokens else [[]]
    for row in rows:
        if row and max(row) >= tokenizer.vocab_size:
            message = f"tokens must hold ids below {tokenizer.vocab_size}, got {max(row)}"
            raise RequestError(message, param="tokens")
    return [tokenizer.decode(row, body.skip_special_tokens) for row in rows]
