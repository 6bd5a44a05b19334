"""A conversation as a chat template is given it, as transformers does it, and how its last message is continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sgcore.tokenizer.renderer import Renderer, TemplateError

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning; templates read the first, some of them the second."""
END = "END_OF_THE_MESSAGE_TO_CONTINUE "
"""Stands behind the message that is continued, to find its end again; the space shows whether the template trims."""


def render_conversation(
    renderer: Renderer, template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
) -> str:
    """The prompt. Raises TemplateError if the template refuses, or doesn't show the message that is continued."""
    given = {"tools": None, "documents": None, "add_generation_prompt": False, **variables}
    continues = given.pop("continue_final_message", False)
    if not messages:
        raise TemplateError("the conversation is empty")
    chat = [_plain(message) for message in messages]
    if not continues:
        return renderer.render(template, {**given, "messages": chat})
    if given["add_generation_prompt"]:
        raise TemplateError("continue_final_message and add_generation_prompt exclude each other")
    content = _mark(chat[-1])
    return _cut(renderer.render(template, {**given, "messages": chat}), content)


def _mark(message: dict[str, Any]) -> str:
    """Put END behind the message's text, or its last part that is text; returns what it was."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + END
        return content
    parts = list(content) if isinstance(content, list | tuple) else []
    for place, part in reversed(list(enumerate(parts))):
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            message["content"] = [*parts[:place], {**part, "text": part["text"] + END}, *parts[place + 1 :]]
            return str(part["text"])
    raise TemplateError("the message to continue has no text")


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message without fields that say nothing, its reasoning under the names that templates know."""
    if not isinstance(message, Mapping):
        raise TemplateError(f"a message must be an object, not {type(message).__name__}")
    plain = {name: value for name, value in message.items() if value is not None}
    reasoning = next((plain[name] for name in REASONING if name in plain), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _cut(text: str, content: str) -> str:
    """The text up to the end of the message that is continued."""
    before, found, behind = text.rpartition(END.strip())
    if not found or content.strip() not in before:
        raise TemplateError("it doesn't show the message to continue as it is")
    return before if behind.startswith(END[-1]) else before.rstrip()
