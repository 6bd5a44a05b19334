"""The formats: transformers' response templates, and how a call is written where the template can't tell."""

from __future__ import annotations

from typing import Any

from sgcore.api import CallMarkup, ResponseFormat

TURNS = [
    "<|im_start|>assistant\n",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "<｜Assistant｜>",
    "<|Assistant|>",
    "<|assistant|>",
    "[/INST]",
]
"""What the assistant's turn begins with in the prompts of the families below."""

WHOLE_OBJECT = {"type": "function", "function": "{content}"}
NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}


def template(**fields: dict[str, Any]) -> dict[str, Any]:
    """A response template of these fields."""
    return {"defaults": {"role": "assistant"}, "start_anchor": TURNS, "fields": fields}


THINK = ResponseFormat(template(reasoning_content={"open": "<think>", "close": "</think>"}))

HERMES = ResponseFormat(
    template(
        tool_calls={
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": WHOLE_OBJECT,
        }
    ),
    CallMarkup('<tool_call>\n{"name": "{name}", "arguments": ', "}\n</tool_call>", "<tool_call>"),
)

QWEN_3_CODER = ResponseFormat(
    template(
        tool_calls={
            "open_pattern": r"<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*</tool_call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>"},
            "transform": NAMED,
        }
    )
)

LLAMA_3 = ResponseFormat(
    template(
        tool_calls={
            "open_pattern": r"(?:\A\s*|<\|python_tag\|>)\s*(?=\{)",
            "repeats": True,
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{content.name}", "arguments": "{content.parameters}"},
            },
        }
    ),
    CallMarkup('{"name": "{name}", "parameters": ', "}", '{"name": "'),
)

MISTRAL = ResponseFormat(
    template(
        tool_calls={
            "open": "[TOOL_CALLS]",
            "content": "json",
            "transform_each": True,
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}},
        }
    ),
    CallMarkup('[TOOL_CALLS] [{"name": "{name}", "arguments": ', "}]", "[TOOL_CALLS]"),
)

MISTRAL_ARGS = ResponseFormat(
    template(
        tool_calls={
            "open_pattern": r"\[TOOL_CALLS\](?P<name>[^\[\s]+)(?:\[CALL_ID\][^\[\s]*)?\[ARGS\]",
            "repeats": True,
            "content": "json",
            "transform": NAMED,
        }
    ),
    CallMarkup("[TOOL_CALLS]{name}[ARGS]", "", "[TOOL_CALLS]"),
)

DEEPSEEK_V3 = ResponseFormat(
    template(
        tool_calls={
            "open_pattern": "<｜tool▁call▁begin｜>function<｜tool▁sep｜>(?P<name>[^\n]+)\n```json\n",
            "close": "```<｜tool▁call▁end｜>",
            "repeats": True,
            "content": "json",
            "transform": NAMED,
        },
        content={"close": ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"]},
    ),
    CallMarkup(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n",
        "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜>",
    ),
)

DEEPSEEK_V31 = ResponseFormat(
    template(
        tool_calls={
            "open_pattern": "<｜tool▁call▁begin｜>(?P<name>[^\n<]+)<｜tool▁sep｜>",
            "close": "<｜tool▁call▁end｜>",
            "repeats": True,
            "content": "json",
            "transform": NAMED,
        },
        content={"close": ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"]},
    ),
    CallMarkup(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜>",
    ),
)
