"""`/generate` for plain prompts: SGLang's own route."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgcore.engine.generation import Generation
from sgcore.engine.limits import MAX_RID_CHARS, check_name, ids_of_each, logprob_fields, with_logprob_ids
from sgcore.engine.outputs import to_dict
from sgcore.engine.pace import Pace, volume
from sgcore.engine.pieces import Group, Piece
from sgcore.engine.prompt import Prompt
from sgcore.engine.sampling import INT32_MAX, sampling_from
from sgcore.errors import RequestError
from sgcore.server.fields import Unsupported, refuse_unsupported
from sgcore.server.service import BYTES_A_CHAR, Service, raise_if_failed
from sgcore.server.sse import EventStream, event, or_disconnect
from sgcore.server.wire import ENCODER, json_response


class GenerateRequest(Unsupported, kw_only=True, forbid_unknown_fields=True):
    """Text or token ids, one or many. A list in any other field has one entry for each prompt."""

    text: str | list[str] | None = None
    input_ids: list[int | list[int]] | None = None
    pieces: list[Piece] | None = None
    """What follows, in order; the answer has a result for each, and the whole as token ids in `input_ids`."""
    group: Group | None = None
    sampling_params: dict[str, Any] | list[dict[str, Any]] | None = None
    rid: str | list[str] | None = None
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: int | list[int] | None = None
    top_logprobs_num: int | list[int] | None = None
    token_ids_logprob: list[int | list[int] | None] | None = None
    """Tokens whose log-probabilities are given at each position: for all prompts, or a list for each."""
    return_text_in_logprobs: bool = False
    stream: bool = False
    timeout: float | None = None
    cache_salt: str | None = None
    extra_key: str | None = None


class GenerateReply(msgspec.Struct):
    """One sequence. Streams send it again and again, `text` cumulative; a very large one when a sixteenth is new."""

    text: str
    output_ids: list[int]
    meta_info: dict[str, Any]
    input_ids: list[int] | msgspec.UnsetType = msgspec.UNSET
    pieces: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


DECODER = msgspec.json.Decoder(GenerateRequest)


def check_ids(ids: list[Any], param: str) -> list[int]:
    """Token ids that are whole numbers a token can have. The frontend knows the vocabulary."""
    if not ids:
        raise RequestError(f"{param} is empty", param=param)
    for token in ids:
        if not isinstance(token, int) or not 0 <= token <= INT32_MAX:
            raise RequestError(f"{param} must hold token ids from 0, got {str(token)[:32]}", param=param)
    return ids


def count_of(ids: list[Any]) -> int:
    """How many prompts `split_ids` will find."""
    return len(ids) if ids and isinstance(ids[0], list) else 1


def split_ids(ids: list[Any], param: str) -> list[list[int]]:
    """One list of ids, or a list of them, as a list of lists."""
    if ids and all(isinstance(entry, list) for entry in ids):
        return [check_ids(entry, param) for entry in ids]
    return [check_ids(ids, param)]


def request_ids(rid: str | list[str] | None, count: int, prefix: str = "") -> list[str]:
    """An id for each of `count` prompts: the client's, or made up."""
    if isinstance(rid, list):
        if len(rid) != count:
            raise RequestError(f"rid has {len(rid)} entries for {count} prompts", param="rid")
        ids = rid
    else:
        base = rid or prefix + uuid.uuid4().hex
        ids = [base] if count == 1 else [f"{base}_{position}" for position in range(count)]
    for entry in ids:
        check_name("rid", entry, 1, MAX_RID_CHARS)
    if len(set(ids)) != len(ids):
        raise RequestError("rid has the same entry twice", param="rid")
    return ids


def _spread(value: Any, count: int, default: Any, param: str) -> list[Any]:
    if not isinstance(value, list):
        return [default if value is None else value] * count
    if len(value) != count:
        raise RequestError(f"{param} has {len(value)} entries for {count} prompts", param=param)
    return value


def _inputs(service: Service, body: GenerateRequest) -> list[tuple[str | None, list[int] | None]]:
    if (body.text is None) == (body.input_ids is None):
        raise RequestError("give exactly one of text and input_ids", param="text")
    if body.input_ids is not None:
        service.check_count(count_of(body.input_ids), "input_ids")
        return [(None, ids) for ids in split_ids(body.input_ids, "input_ids")]
    texts = [body.text] if isinstance(body.text, str) else body.text
    service.check_count(len(texts or ()), "text")
    if not texts:
        raise RequestError("text is an empty list", param="text")
    return [(text, None) for text in texts]


def _is_single(body: GenerateRequest) -> bool:
    if body.input_ids is not None:
        return not isinstance(body.input_ids[0], list)
    return isinstance(body.text, str)


def prompts_of(service: Service, body: GenerateRequest) -> list[Prompt]:
    """The prompts of a request, validated. Raises `RequestError` 400."""
    refuse_unsupported(body, Unsupported)
    inputs = _inputs(service, body)
    count = len(inputs)
    if any(text is not None for text, _ in inputs):
        assert service.tokenizer
    sampling = _spread(body.sampling_params, count, {}, "sampling_params")
    wanted = _spread(body.return_logprob, count, False, "return_logprob")
    starts = _spread(body.logprob_start_len, count, -1, "logprob_start_len")
    asked = ids_of_each(body.token_ids_logprob, count)
    tops = _spread(body.top_logprobs_num, count, 0, "top_logprobs_num")
    rids = request_ids(body.rid, count)
    prompts = []
    for i, (text, ids) in enumerate(inputs):
        prompt = Prompt(
            text=text,
            input_ids=ids,
            sampling=with_logprob_ids(sampling_from(sampling[i], service.defaults), asked[i], wanted[i]),
            rid=rids[i],
            timeout_s=body.timeout,
            namespace=body.cache_salt or body.extra_key or "",
            **logprob_fields(wanted[i], starts[i], tops[i]),
        )
        prompts.append(prompt)
    service.check_count(sum(prompt.sampling.n for prompt in prompts), "n")
    return prompts


def _reply(service: Service, body: GenerateRequest, prompt: Prompt, generation: Generation) -> dict[str, Any]:
    return to_dict(
        generation,
        tokenizer=service.frontend_tokenizer,
        want_logprobs=prompt.top_logprobs >= 0,
        want_top_logprobs=prompt.top_logprobs > 0,
        return_text_in_logprobs=body.return_text_in_logprobs,
    )


async def _events(service: Service, body: GenerateRequest, prompts: list[Prompt]) -> AsyncGenerator[bytes, None]:
    samples = max(prompt.sampling.n for prompt in prompts)
    is_indexed = samples > 1 or not _is_single(body)
    pace = Pace()

    def block(position: int, generation: Generation) -> bytes:
        reply = _reply(service, body, prompts[position], generation)
        if is_indexed:
            reply["index"] = position * samples + generation.index
        return event(ENCODER.encode(reply))

    async with aclosing(service.run(prompts)) as batches:
        async for changes in batches:
            blocks = []
            for position, generation in changes:
                raise_if_failed(generation)
                if pace.is_due((position, generation.index), generation):
                    blocks.append(await service.off_loop(volume(generation), block, position, generation))
            if blocks:
                yield b"".join(blocks)


async def generate_prompts(request: Request, service: Service, body: GenerateRequest) -> Response:
    """Continue text or token ids."""
    prompts = await service.off_loop(request.state.body_bytes // BYTES_A_CHAR, prompts_of, service, body)
    if body.stream:
        return EventStream(_events(service, body, prompts))
    finished = await or_disconnect(request, service.complete(prompts))
    pairs = [(prompt, sample) for prompt, samples in zip(prompts, finished, strict=True) for sample in samples]

    def respond() -> Response:
        replies = [_reply(service, body, prompt, generation) for prompt, generation in pairs]
        return json_response(replies[0] if _is_single(body) and len(replies) == 1 else replies)

    return await service.reply((generation for _, generation in pairs), respond)
