"""Health, what runs here, and the few levers: flush, abort, metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sgcore import __version__
from sgcore.engine.prompt import Prompt
from sgcore.errors import RequestError
from sgcore.server.metrics import CONTENT_TYPE
from sgcore.server.service import Service, greedy
from sgcore.server.sse import or_disconnect
from sgcore.server.wire import json_response, read

PROBE_TIMEOUT_S = 20.0
MAX_FLUSH_WAIT_S = 600.0


class AbortRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which requests to end: those whose id begins with `rid`, or all."""

    rid: str | None = None
    abort_all: bool = False


ABORT = msgspec.json.Decoder(AbortRequest)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def health(request: Request) -> Response:
    """200 if the engine turns and new requests are taken, 503 with the reason otherwise; answers at once."""
    service = _service(request)
    if service.is_ready:
        return Response()
    return PlainTextResponse(str(service.outage or "the engine does not respond"), 503)


async def health_generate(request: Request) -> Response:
    """200 if one token can be generated, 503 otherwise."""
    service = _service(request)
    prompt = Prompt(sampling=greedy(1), input_ids=[0], timeout_s=PROBE_TIMEOUT_S)
    try:
        work = asyncio.wait_for(service.complete([prompt]), PROBE_TIMEOUT_S)
        await or_disconnect(request, work)
    except (RequestError, TimeoutError):
        return Response(status_code=503)
    return Response()


async def model_info(request: Request) -> Response:
    """The model, in SGLang's words."""
    service = _service(request)
    frontend: Any = service.frontend
    plan = frontend.plan
    model = plan.choices.model
    info = {
        "model_path": model.model_path,
        "served_model_name": service.name,
        "tokenizer_path": model.tokenizer_path or model.model_path,
        "is_generation": True,
        "preferred_sampling_params": service.defaults or None,
        "weight_version": "default",
        "load_format": model.load_format,
        "tool_call_parser": plan.tool_call_parser and plan.tool_call_parser.name,
        "reasoning_parser": plan.reasoning_parser and plan.reasoning_parser.name,
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "model_type": plan.hf_config.get("model_type"),
        "architectures": plan.hf_config.get("architectures"),
        "max_model_len": frontend.context_tokens,
        "chat_turns": await service.as_conversation(lambda: frontend.chat_turns),
    }
    return json_response(info)


async def server_info(request: Request) -> Response:
    """Every option and where it came from, the limits and the load; no secrets."""
    service = _service(request)
    frontend: Any = service.frontend
    options = frontend.plan.choices.public()
    options |= {name: value for name, value in frontend.plan.options.items() if name != "api_key"}
    info = options | {
        "version": __version__,
        "served_model_name": service.name,
        "startup_time": service.started,
        "context_tokens": frontend.context_tokens,
        "max_total_num_tokens": frontend.max_total_tokens,
        "decided_by": {decision.name: decision.decided_by for decision in frontend.plan.decisions},
        "start_report": dict(frontend.report),
        "internal_states": [_load(service)],
    }
    return json_response(info)


def _load(service: Service) -> dict[str, Any]:
    frontend: Any = service.frontend
    values = service.metrics.load.values() if service.metrics.load else {}
    return {
        "dp_rank": 0,
        "num_running_reqs": frontend.stats.running,
        "num_waiting_reqs": frontend.stats.queued,
        "num_waiting_tokens": frontend.stats.queued_tokens,
        "num_used_tokens": frontend.stats.used_tokens,
        "num_cached_tokens": frontend.stats.cached_tokens,
        "max_total_num_tokens": frontend.max_total_tokens,
        "token_usage": values.get("token_usage", 0.0),
        "cache_hit_rate": values.get("cache_hit_rate", 0.0),
        "gen_throughput": values.get("gen_throughput", 0.0),
    }


async def loads(request: Request) -> Response:
    """The load, for routers."""
    service = _service(request)
    return json_response({"timestamp": time.time(), "dp_rank_count": 1, "loads": [_load(service)]})


async def version(request: Request) -> Response:
    """The server's version."""
    return json_response({"version": __version__})


async def metrics(request: Request) -> Response:
    """Prometheus text."""
    return Response(_service(request).metrics.text(), headers={"content-type": CONTENT_TYPE})


async def flush_cache(request: Request) -> Response:
    """Empty the prefix cache. 400 while requests run, after waiting `timeout` seconds for them."""
    frontend = _service(request).frontend
    deadline = time.monotonic() + _timeout(request.query_params.get("timeout", "0"))
    while not await frontend.flush_cache():
        if time.monotonic() >= deadline:
            raise RequestError("the cache was not flushed: requests are running or waiting")
        await asyncio.sleep(0.1)
    return PlainTextResponse("Cache flushed.\n")


def _timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_FLUSH_WAIT_S:
        raise RequestError(f"timeout must be a number of seconds from 0 to {MAX_FLUSH_WAIT_S:g}", param="timeout")
    return seconds


async def abort_request(request: Request) -> Response:
    """End requests by the beginning of their id. 200 whether or not one was found."""
    service = _service(request)
    body = await read(request, ABORT, service.options.max_body_bytes)
    if not body.rid and not body.abort_all:
        raise RequestError("give rid or abort_all", param="rid")
    if body.abort_all:
        service.frontend.abort(everything=True)
    else:
        service.frontend.abort(body.rid or "")
    return json_response({})
