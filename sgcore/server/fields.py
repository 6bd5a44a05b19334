"""Fields of requests that this server knows and does not act on: refused where they would change the answer."""

from __future__ import annotations

from typing import Any

import msgspec

from sgcore.engine.sampling import is_asked
from sgcore.errors import RequestError


class Ignored(msgspec.Struct, kw_only=True):
    """Fields that can't change the answer here: labels, billing, placement, the size of a stream's chunks."""

    user: Any = None
    store: Any = None
    metadata: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    prediction: Any = None
    """Text that the answer may repeat: it saves time where it is used."""
    session_id: Any = None
    conversation_id: Any = None
    custom_labels: Any = None
    log_metrics: Any = None
    no_logs: Any = None
    external_trace_header: Any = None
    received_time: Any = None
    data_parallel_rank: Any = None
    routed_dp_rank: Any = None
    disagg_prefill_dp_rank: Any = None
    stream_interval: Any = None
    length_penalty: Any = None
    """Of beam search, which is refused."""
    routed_experts_start_len: Any = None
    routed_experts_prompt_start: Any = None


class Unsupported(Ignored, kw_only=True):
    """Fields that would change the answer, and that this server doesn't know yet: refused when set."""

    lora_path: Any = None
    session_params: Any = None
    custom_params: Any = None
    custom_logit_processor: Any = None
    priority: Any = None
    """To one server larger is more urgent, to another less; here bodies get equal shares."""
    input_embeds: Any = None
    image_data: Any = None
    video_data: Any = None
    audio_data: Any = None
    mm_processor_kwargs: Any = None
    return_hidden_states: Any = None
    return_routed_experts: Any = None
    return_prompt_token_ids: Any = None
    bootstrap_host: Any = None
    bootstrap_port: Any = None
    bootstrap_room: Any = None


class UnsupportedOpenAI(Unsupported, kw_only=True):
    """Those of the OpenAI routes, where SGLang's and vLLM's users send more."""

    audio: Any = None
    modalities: Any = None
    moderation: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    use_beam_search: Any = None
    beam_width: Any = None
    logits_processors: Any = None
    logprob_token_ids: Any = None
    token_ids_logprob: Any = None
    chat_template: Any = None
    """A template is code: the server's operator chooses it."""
    guided_decoding_backend: Any = None
    guided_whitespace_pattern: Any = None
    include_reasoning: Any = None
    thinking_token_budget: Any = None
    repetition_detection: Any = None
    watermarking: Any = None
    prompt_embeds: Any = None
    media_io_kwargs: Any = None
    images_config: Any = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    vllm_xargs: Any = None
    ngram_corpus_id: Any = None
    return_cached_tokens_details: Any = None
    return_prompt_text: Any = None


NEUTRAL: dict[str, Any] = {
    "modalities": ["text"],
    "verbosity": "medium",
    "include_reasoning": True,
    "thinking_token_budget": -1,
}
"""Values that ask for what the server does anyway, where that isn't false, zero or empty."""


def refuse_unsupported(body: msgspec.Struct, kind: type[msgspec.Struct]) -> None:
    """Raise `RequestError` 400 if a field of `kind` asks for anything: to ignore it would be to answer wrongly."""
    for name in kind.__struct_fields__[len(Ignored.__struct_fields__) :]:
        value = getattr(body, name)
        if value != NEUTRAL[name] and value is not None if name in NEUTRAL else is_asked(value):
            message = f"{name} is not supported by this server"
            raise RequestError(message, param=name, code="unsupported_parameter")
