"""What the user said: one frozen record a concern. Nothing is decided here; see `sgcore.plugins.plan`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """A frozen group of options; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelOptions(Options):
    """Which model, and in which form."""

    model_path: str = Field(description="Hugging Face folder, GGUF file, or hub id.")
    tokenizer_path: str | None = Field(None, description="Folder of the tokenizer, if it isn't the model's.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    load_format: str = Field("auto", description="Weight source by name; `dummy` makes random weights.")
    model_impl: str | None = Field(None, description="Model driver by name; the architecture's own by default.")
    dtype: str = Field("auto", description="float32, bfloat16, float16, or auto: the best that the platform does well.")
    quantization: str | None = Field(None, description="Quantization method, if the configuration names none.")
    disable_quantization_cache: bool = Field(
        False, description="Quantise at every start, and keep nothing of it under XDG_CACHE_HOME."
    )
    context_length: int | None = Field(None, gt=0, description="Longest prompt plus output, in tokens.")
    skip_tokenizer_init: bool = Field(False, description="Token ids in and out; no text.")
    served_model_name: str | None = Field(None, description="The name in OpenAI replies; the model path by default.")
    chat_template: str | None = Field(None, description="A Jinja file that replaces the tokenizer's chat template.")
    tool_call_parser: str = Field("auto", description="Format of tool calls by name; auto: by the tokenizer; none.")
    reasoning_parser: str = Field("auto", description="Format of reasoning by name; auto: by the tokenizer; none.")
    sampling_defaults: Literal["model", "openai"] = Field("model", description="model: generation_config.json's.")
    preferred_sampling_params: str = Field(
        "{}", description="JSON object of sampling parameters that hold where a request says nothing; over the model's."
    )
    json_model_override_args: str = Field("{}", description="JSON object merged into config.json.")


class RuntimeOptions(Options):
    """On what it runs, and with how much memory."""

    platform: str | None = Field(None, description="Platform by name; the one that is present by default.")
    attention_backend: str | None = Field(None, description="Attention backend by name; the platform's default.")
    grammar_backend: str | None = Field(None, description="Backend of structured output; an installed one by default.")
    mem_fraction_static: float | None = Field(None, gt=0, le=1, description="Share of memory for weights and KV.")
    max_total_tokens: int | None = Field(
        None, gt=0, description="KV pool in tokens; by default what the platform has for it."
    )
    kv_cache_dtype: str = Field(
        "auto",
        description="auto: keys and values in the model's type; if the backend reads them, fp8: 8-bit floats, int8: "
        "integers with a scale for each head of a token.",
    )
    page_size: int | None = Field(None, gt=0, description="Tokens a page; the attention backend's by default.")
    random_seed: int = Field(0, description="Seed of the requests that bring none, and of dummy weights.")
    run_ahead: int | None = Field(None, ge=0, le=8, description="Steps launched ahead; the platform's by default.")
    graph_tokens: int | None = Field(
        None, ge=0, description="Steps of up to so many tokens run as graphs; decode steps always do."
    )
    enforce_eager: bool = Field(False, description="Capture no graphs.")
    threads: int | None = Field(None, gt=0, description="Compute threads on a CPU; one a physical core by default.")


class ScheduleOptions(Options):
    """Who runs next."""

    schedule_policy: Literal["fcfs", "lpm"] = Field("fcfs", description="lpm: longest prefix match, with aging.")
    max_running_requests: int = Field(256, gt=0, description="Rows in one step.")
    chunked_prefill_size: int = Field(512, gt=0, description="Token budget of one step, prefill and decode together.")
    mixed_chunk_size: int | None = Field(
        None,
        gt=0,
        description="Token budget of a step that decodes and prefills; it doubles with the backlog of prompts.",
    )
    max_queued_requests: int = Field(4096, gt=0, description="Requests that may wait; more get 429.")
    max_queued_tokens: int = Field(4_000_000, gt=0, description="Prompt tokens that may wait; more get 429.")
    disable_radix_cache: bool = Field(False, description="No prefix reuse.")


class ServerOptions(Options):
    """How it is reached."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(30000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    api_key: str | None = Field(None, repr=False, description="Key that every route but health asks for.")
    max_body_bytes: int = Field(16 << 20, gt=0, description="Larger bodies get 413.")
    max_header_bytes: int = Field(65536, gt=0, description="Larger headers get 431.")
    max_connections: int = Field(8192, gt=0, description="Open connections; more get 503.")
    max_request_prompts: int = Field(
        2048, gt=0, description="Prompts of a request, each as often as it has samples; more get 400."
    )
    read_timeout: float = Field(
        30.0,
        gt=0,
        description="Seconds for a request to arrive, and a second more for 16 KiB of body; else 408.",
    )
    log_requests: Literal["on", "off"] = Field("on", description="A line for each request, without its texts.")
    cors_allow_origins: tuple[str, ...] = Field(
        (), description="Origins whose pages may call the server from a browser; `*`: any."
    )
    shutdown_timeout: float = Field(30.0, ge=0, description="Seconds that running requests may take after SIGTERM.")
    metrics_prefix: str = Field("sgcore:", description="Prefix of metric names.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")


class PluginOptions(Options):
    """Which plugins take part."""

    prefer: tuple[str, ...] = Field((), description="NAME=DISTRIBUTION: who provides a name that two offer.")
    disable_plugin: tuple[str, ...] = Field((), description="Hook plugins that take no part.")
    route_plugin: tuple[str, ...] = Field((), description="Hook plugins that may add HTTP routes.")
    plugin_options: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict, description="Values of options that plugins add, by name."
    )
    strict_plugins: bool = Field(False, description="A broken plugin ends the start instead of being listed.")


class Choices(Options):
    """Everything the user said. Serialises without secrets through `public()`."""

    model: ModelOptions
    runtime: RuntimeOptions = RuntimeOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    server: ServerOptions = ServerOptions()
    plugins: PluginOptions = PluginOptions()

    @classmethod
    def of(cls, **flat: Any) -> Choices:
        """Choices from flat names, as `Engine(...)` takes them. Raises TypeError for an unknown name."""
        groups: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            group = FLAT_NAMES.get(name)
            if group is None:
                raise TypeError(f"unknown option {name!r}; known: {', '.join(sorted(FLAT_NAMES))}")
            groups.setdefault(group, {})[name] = value
        return cls.model_validate(groups)

    def public(self) -> dict[str, Any]:
        """Flat names and values with secrets replaced."""
        flat: dict[str, Any] = {}
        for group in type(self).model_fields:
            flat.update(getattr(self, group).model_dump())
        flat["api_key"] = None if flat["api_key"] is None else "***"
        return flat


GROUPS: dict[str, type[Options]] = {
    "model": ModelOptions,
    "runtime": RuntimeOptions,
    "schedule": ScheduleOptions,
    "server": ServerOptions,
    "plugins": PluginOptions,
}
"""The fields of `Choices` and their records."""

FLAT_NAMES: dict[str, str] = {name: group for group, record in GROUPS.items() for name in record.model_fields}
"""Option name -> the group that holds it."""
