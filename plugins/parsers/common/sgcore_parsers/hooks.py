"""Which format a chat template uses, by the markers that it writes itself when it renders earlier calls."""

from __future__ import annotations

from sgcore.hookspecs import hookimpl

CALLS = (
    ("hermes", ("<tool_call>", '"name"')),
    ("hermes", ("<tool_call>", "tool_call.name")),
    ("mistral-args", ("[TOOL_CALLS]", "[ARGS]")),
    ("mistral", ("[TOOL_CALLS]",)),
    ("deepseekv3", ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "```json")),
    ("deepseekv31", ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>")),
    ("llama3", ("<|start_header_id|>", '"parameters": ')),
)
"""Names and the texts that a template of each must have; the first one counts."""
OTHERS = ("<arg_key>",)
"""Texts of formats that look like the above and are none of them."""


@hookimpl(trylast=True)
def sgcore_select_tool_call_parser(chat_template: str) -> str | None:
    """By markers; a plugin that knows its model's template better answers before."""
    if any(text in chat_template for text in OTHERS):
        return None
    if "<function=" in chat_template and "<tool_call>" in chat_template:
        return "qwen3_coder"
    return next((name for name, texts in CALLS if all(text in chat_template for text in texts)), None)


@hookimpl(trylast=True)
def sgcore_select_reasoning_parser(chat_template: str) -> str | None:
    """Templates of models that think know where thinking ends, to leave it out of earlier turns."""
    return "qwen3" if "</think>" in chat_template else None
