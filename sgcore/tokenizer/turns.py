"""A chat template taken apart: what stands before and behind each role's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sgcore.errors import RequestError
from sgcore.tokenizer.tokenizer import Tokenizer

Turn = tuple[str, str]
"""Role and content."""
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
MARK = "Q7x{}zW"
"""A word that no template has and none changes."""


class ChatTurns(msgspec.Struct, frozen=True):
    """How a conversation becomes text, turn by turn; only if `is_concatenative` is it so."""

    is_concatenative: bool
    reason: str = ""
    """Why it isn't."""
    start: dict[str, str] = {}
    """Role of the first turn -> what stands before it: a first special token, a default system turn."""
    roles: dict[str, tuple[str, str]] = {}
    """Role -> the text before and behind its words."""
    has_template: bool = True
    stop_token_ids: list[int] = []
    """Special tokens that end the assistant's turn."""

    def render(self, turns: Sequence[Turn], opens: str = "") -> str:
        """The conversation as text, with the beginning of a turn of role `opens` behind it."""
        text = self.start[turns[0][0]] if turns else ""
        text += "".join(self.roles[role][0] + content + self.roles[role][1] for role, content in turns)
        return text + (self.roles[opens][0] if opens else "")


class _Refused(Exception):
    """The template is none of the kind that this module understands; says why."""


def chat_turns(tokenizer: Tokenizer) -> ChatTurns:
    """Take the tokenizer's template apart by rendering conversations of known words."""

    def render(turns: Sequence[Turn], adds_prompt: bool = False) -> str:
        messages: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in turns]
        return tokenizer.apply_chat_template(messages, add_generation_prompt=adds_prompt)

    if not tokenizer.has_chat_template:
        return ChatTurns(False, "the model has no chat template", has_template=False)
    try:
        found = _derive(render, tokenizer.bos_text)
        _verify(found, render)
    except (_Refused, RequestError) as error:
        if isinstance(error, RequestError) and error.status >= 500:
            raise  # it says nothing about the template
        return ChatTurns(False, str(error))
    suffix = tokenizer.encode_more(found.roles[ASSISTANT][1])[:1]
    ends = [token for token in suffix if token in set(tokenizer.hf.all_special_ids)]
    return msgspec.structs.replace(found, stop_token_ids=ends)


Render = Callable[..., str]


def _derive(render: Render, bos: str) -> ChatTurns:
    words = [MARK.format(place) for place in range(3)]
    one, three = [(USER, words[0])], [(USER, words[0]), (ASSISTANT, words[1]), (USER, words[2])]
    head, user_end = _split(render(one), words[:1])
    _, user_to_assistant, assistant_to_user, _ = _split(render(three), words)
    prompt = _without_start(render(one, True), render(one), "the beginning of the assistant's turn is not just added")
    if user_end + prompt != user_to_assistant:
        raise _Refused("the assistant's turn begins in another way once it is complete")
    assistant_end = _split(render(three[:2]), words[:2])[-1]
    user_begin = _without_start(assistant_to_user, assistant_end, "the assistant's last turn ends in another way")
    start = {role: head.removesuffix(user_begin) for role in (USER, ASSISTANT)}
    roles = {USER: (user_begin, user_end), ASSISTANT: (prompt, assistant_end)}
    system = _system(render, user_begin, bos)
    if system is not None:
        start[SYSTEM], roles[SYSTEM] = system
    return ChatTurns(True, start=start, roles=roles)


def _system(render: Render, user_begin: str, bos: str) -> tuple[str, tuple[str, str]] | None:
    """What stands before a system turn that is the first, and around its words; None: there is no such role."""
    words = [MARK.format(place) for place in range(2)]
    try:
        head, between, _ = _split(render([(SYSTEM, words[0]), (USER, words[1])]), words)
    except RequestError as error:
        if error.status >= 500:
            raise
        return None
    if not between.endswith(user_begin):
        raise _Refused("a system message changes the user's turn behind it")
    first = bos if bos and head.startswith(bos) and not user_begin.startswith(bos) else ""
    return first, (head.removeprefix(first), between.removesuffix(user_begin))


def _verify(found: ChatTurns, render: Render) -> None:
    """The whole conversation, rendered at once, is the turns behind one another."""
    talk = [(USER, "One.\nTwo"), (ASSISTANT, "Three {4}"), (USER, "Five")]
    talks = [talk, talk[:1]]
    if SYSTEM in found.roles:
        talks += [[(SYSTEM, "Be brief"), *talk], [(SYSTEM, "Be brief"), *talk, (ASSISTANT, "Six"), (USER, "Seven?")]]
    for turns in talks:
        if render(turns, True) != found.render(turns, ASSISTANT):
            raise _Refused("a conversation as a whole differs from its turns behind one another")


def _split(text: str, words: Sequence[str]) -> list[str]:
    parts, rest = [], text
    for word in words:
        before, found, rest = rest.partition(word)
        if not found:
            raise _Refused("the template leaves messages out or changes their order")
        parts.append(before)
    return [*parts, rest]


def _without_start(text: str, start: str, otherwise: str) -> str:
    if not text.startswith(start):
        raise _Refused(otherwise)
    return text.removeprefix(start)
