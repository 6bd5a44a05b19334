"""OpenAI's wire types, with the extra fields that SGLang's and vLLM's users send."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from sgcore.server.fields import UnsupportedOpenAI


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a stream says besides the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None
    """Ignored: padding against an observer of the sizes of chunks, which changes no answer."""


class JsonSchema(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A schema with the name that OpenAI asks for. It is followed whether `strict` says so or not."""

    schema: dict[str, Any] | bool | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """`text`, `json_object`, `json_schema`, or `structural_tag` with a format or SGLang's structures and triggers."""

    type: str
    json_schema: JsonSchema | None = None
    format: dict[str, Any] | None = None
    structures: list[Any] | None = None
    triggers: list[str] | None = None


class StructuredOutputs(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """vLLM's field for a constraint, of which it holds one, and options."""

    json: str | dict[str, Any] | bool | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    structural_tag: str | dict[str, Any] | None = None
    disable_any_whitespace: bool | None = None
    """Ignored: backends decide how JSON is spaced, and all of it follows the schema."""
    disable_fallback: bool | None = None
    """Ignored: there is one backend."""
    disable_additional_properties: bool | None = None
    whitespace_pattern: str | None = None


class Shared(UnsupportedOpenAI, kw_only=True, forbid_unknown_fields=True):
    """What completions and chat have in common; fields that it doesn't have are refused."""

    model: str | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_regex: str | list[str] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | dict[str, Any] | None = None
    choice: list[str] | None = None
    constraint_after: str | list[int] | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    truncate_prompt_tokens: int | None = None
    """Longer prompts are cut to so many tokens; -1: to what leaves room for `max_tokens`."""
    truncation_side: Literal["left", "right"] | None = None
    """Where they are cut; `left`, so that the end stays, is the default."""
    prompt_logprobs: int | None = None
    """Log-probabilities of the prompt's tokens, each with so many of the most probable ones; not in streams."""
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    """Tokens of log-probabilities are named `token_id:5` and so on."""
    add_special_tokens: bool | None = None
    """Whether the prompt begins as the tokenizer begins a document: yes for texts, no for rendered conversations."""
    ignore_eos: bool | None = None
    no_stop_trim: bool | None = None
    include_stop_str_in_output: bool | None = None
    """Another name of `no_stop_trim`."""
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    stop_token_ids: list[int] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    rid: str | list[str] | None = None
    request_id: str | None = None
    """Another name of `rid`."""
    timeout: float | None = None
    cache_salt: str | None = None
    extra_key: str | None = None
    """Another name of `cache_salt`."""


class CompletionRequest(Shared, kw_only=True):
    """`/v1/completions`: `prompt` is text, token ids, or a list of either."""

    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None
    tools: Any = None
    best_of: int | None = None


class ContentPart(msgspec.Struct, kw_only=True):
    """One part of a message: text, or a refusal of an earlier turn."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(msgspec.Struct, kw_only=True):
    """A call's name and arguments: JSON text, as this server gives it, or an object; nothing stands for none."""

    name: str
    arguments: Any = None


class CustomInput(msgspec.Struct, kw_only=True):
    """The name of a custom tool, and the text that it was called with."""

    name: str
    input: str


class MadeCall(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A tool call that an assistant's message made: of a function, or of a custom tool."""

    function: CalledFunction | None = None
    custom: CustomInput | None = None
    id: str | None = None
    type: str = "function"


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One message; fields that a template may want are passed on."""

    role: str
    content: str | list[str | ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[MadeCall] | None = None
    function_call: CalledFunction | None = None
    """A call as it was before `tool_calls`."""
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """Another name of `reasoning_content`."""


class ToolFunction(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A function that the model may call; `parameters` is a JSON schema of an object."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class InputGrammar(msgspec.Struct, kw_only=True):
    """What a custom tool's input must match; `regex` is the syntax that is known."""

    definition: str
    syntax: str


class InputFormat(msgspec.Struct, kw_only=True):
    """A custom tool's input: any `text`, or a `grammar`."""

    type: str
    grammar: InputGrammar | None = None


class CustomTool(msgspec.Struct, kw_only=True):
    """A tool that takes a text."""

    name: str
    description: str | None = None
    format: InputFormat | None = None


class Tool(msgspec.Struct, kw_only=True):
    """A tool: `function` or `custom`."""

    function: ToolFunction | None = None
    custom: CustomTool | None = None
    type: str = "function"


class ChosenTool(msgspec.Struct, kw_only=True):
    """A tool's name."""

    name: str


class AllowedTools(msgspec.Struct, kw_only=True):
    """Some of the tools, and whether one of them must be called (`required`) or may be (`auto`)."""

    mode: str
    tools: list[NamedTool]


class NamedTool(msgspec.Struct, kw_only=True):
    """The tool that must be called, or with type `allowed_tools` those that may be."""

    function: ChosenTool | None = None
    custom: ChosenTool | None = None
    allowed_tools: AllowedTools | None = None
    type: str = "function"


class ChatRequest(Shared, kw_only=True):
    """`/v1/chat/completions`."""

    messages: list[Message]
    echo: bool | None = None
    """Whether the answer begins with the last message, where that is the assistant's."""
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    functions: list[ToolFunction] | None = None
    """The name of `tools` before there were other kinds."""
    function_call: str | ChosenTool | None = None
    """The name of `tool_choice` then."""
    separate_reasoning: bool | None = None
    stream_reasoning: bool | None = None
    reasoning_effort: str | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class PromptTokensDetails(msgspec.Struct):
    """Where prompt tokens came from."""

    cached_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct):
    """What tokens of an answer were for."""

    reasoning_tokens: int = 0


class Usage(msgspec.Struct):
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET
    """Of conversations alone."""


class CompletionLogprobs(msgspec.Struct):
    """Log-probabilities of a completion: parallel lists, one entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class PromptLogprob(msgspec.Struct):
    """Log-probability of a token at a position of the prompt."""

    logprob: float
    rank: int | None
    """1 for the most probable token; null for one that isn't among those asked for."""
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]
"""By token id, for each position; null for the first one, which nothing predicts."""


class CompletionChoice(msgspec.Struct):
    """One completion, or what is new of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    matched_stop: int | str | None = None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class Completion(msgspec.Struct):
    """A completion, or one chunk of it."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: str = "text_completion"
    usage: Usage | UnsetType | None = UNSET


class TopLogprob(msgspec.Struct):
    """A token that might have been."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct):
    """A token, and what might have been in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """Log-probabilities of a message."""

    content: list[ChatTokenLogprob]


class FunctionCall(msgspec.Struct, omit_defaults=True):
    """A function's name and arguments, which are JSON text; in a stream, what is new of them."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class CustomCall(msgspec.Struct, omit_defaults=True):
    """A custom tool's name and the text it is called with; in a stream, what is new of it."""

    name: str | UnsetType = UNSET
    input: str | UnsetType = UNSET


class ToolCall(msgspec.Struct):
    """A call that the model makes: of a function, or of a custom tool."""

    id: str
    type: str = "function"
    function: FunctionCall | UnsetType = UNSET
    custom: CustomCall | UnsetType = UNSET


class ReplyMessage(msgspec.Struct):
    """The assistant's message."""

    content: str | None
    role: str = "assistant"
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | UnsetType = UNSET
    refusal: str | None = None


class ChatChoice(msgspec.Struct):
    """One answer."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    matched_stop: int | str | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct):
    """A chat completion."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    object: str = "chat.completion"
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, omit_defaults=True):
    """What is new of a call: id, type, name and empty arguments at first, then more arguments."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionCall | UnsetType = UNSET
    custom: CustomCall | UnsetType = UNSET


class Delta(msgspec.Struct, omit_defaults=True):
    """What is new of a message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    function_call: FunctionCall | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    """What is new of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    matched_stop: int | str | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct):
    """One chunk of a chat completion."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    object: str = "chat.completion.chunk"
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ModelCard(msgspec.Struct):
    """A model that this server has."""

    id: str
    created: int
    root: str
    max_model_len: int
    object: str = "model"
    owned_by: str = "sgcore"
    parent: str | None = None


class ModelList(msgspec.Struct):
    """All models."""

    data: list[ModelCard]
    object: str = "list"
