"""Every route: the application, `/openapi.json` and `docs/reference/routes.md` follow this table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sgcore.server import admin, chat, completions, native, openai, programs, tokens
from sgcore.server.protocol import (
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
)

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Entry:
    """One endpoint and its paths; the first is the one to use."""

    paths: tuple[str, ...]
    methods: tuple[str, ...]
    endpoint: Endpoint
    body: Any = None
    """The msgspec type of the request's body."""
    reply: Any = None
    """The msgspec type of the answer; None: empty, text, or an open object."""
    media: str = "application/json"

    @property
    def summary(self) -> str:
        """The endpoint's first line."""
        return (self.endpoint.__doc__ or "").partition("\n")[0]


GET, POST = ("GET",), ("POST",)
ROUTES: tuple[Entry, ...] = (
    Entry(("/health",), GET, admin.health, media=""),
    Entry(("/ready",), GET, admin.health, media=""),
    Entry(("/ping",), GET, admin.health, media=""),
    Entry(("/health_generate",), GET, admin.health_generate, media=""),
    Entry(("/generate",), ("POST", "PUT"), programs.generate, native.GenerateRequest, native.GenerateReply),
    Entry(("/release_group",), POST, programs.release_group, programs.ReleaseRequest, dict[str, Any]),
    Entry(("/v1/chat/completions",), POST, chat.chat_completions, ChatRequest, ChatCompletion),
    Entry(("/v1/completions",), POST, completions.completions, CompletionRequest, Completion),
    Entry(("/v1/models",), GET, openai.models, reply=ModelList),
    Entry(("/v1/models/{model_id:path}",), GET, openai.model, reply=ModelCard),
    Entry(("/tokenize", "/v1/tokenize"), POST, tokens.tokenize, tokens.TokenizeRequest, tokens.TokenizeReply),
    Entry(("/detokenize", "/v1/detokenize"), POST, tokens.detokenize, tokens.DetokenizeRequest, tokens.DetokenizeReply),
    Entry(("/model_info", "/get_model_info"), GET, admin.model_info, reply=dict[str, Any]),
    Entry(("/server_info", "/get_server_info"), GET, admin.server_info, reply=dict[str, Any]),
    Entry(("/v1/loads",), GET, admin.loads, reply=dict[str, Any]),
    Entry(("/version",), GET, admin.version, reply=dict[str, str]),
    Entry(("/flush_cache",), ("GET", "POST"), admin.flush_cache, media="text/plain"),
    Entry(("/abort_request",), POST, admin.abort_request, admin.AbortRequest, dict[str, Any]),
    Entry(("/metrics",), GET, admin.metrics, media="text/plain"),
)
