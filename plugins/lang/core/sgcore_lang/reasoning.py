"""The word `separate_reasoning`: a model's thoughts apart from its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sgcore.api import Primitive
from sgcore.lang import Append, Assign, Capture, Generated, Mark, Rewind, State, Steps

TAGS: dict[str, tuple[str, str, bool]] = {
    "deepseek-r1": ("<think>", "</think>", True),
    "deepseek-v3": ("<think>", "</think>", False),
    "glm45": ("<think>", "</think>", False),
    "gpt-oss": ("<|channel|>analysis<|message|>", "<|end|>", True),
    "kimi": ("◁think▷", "◁/think▷", False),
    "qwen3": ("<think>", "</think>", False),
    "qwen3-thinking": ("<think>", "</think>", True),
}
"""Kind of model -> what stands before and behind its thoughts, and whether it thinks even without the beginning."""
SUFFIX = "_reasoning_content"


class SeparateReasoning(Primitive):
    """`separate_reasoning(expr, model_type)`: NAME gets the answer, NAME_reasoning_content what led to it.

    The text goes on behind the answer alone. Raises ValueError for an unknown kind of model.
    """

    def __init__(self, expr: Primitive, model_type: str) -> None:
        if model_type not in TAGS:
            raise ValueError(f"unknown model_type {model_type!r}; known: {', '.join(TAGS)}")
        self.expr = expr
        self.tags = TAGS[model_type]

    def run(self, state: State) -> Steps:
        steps = self.expr.run(state)
        result: Any = None
        while True:
            try:
                request = steps.send(result)
            except StopIteration:
                return
            if isinstance(request, Capture):
                yield from self._separate(request)
                result = None
            else:
                result = yield request

    def _separate(self, request: Capture) -> Steps:
        start = yield Mark()
        found: Generated = yield request.request
        parts = [split(text, self.tags) for text in found.texts]
        yield Rewind(start)
        yield Append(parts[0][1])
        thoughts, answers = ([part[side] for part in parts] for side in (0, 1))
        many = len(parts) > 1
        name = request.name or ""
        yield Assign(name, answers if many else answers[0], found.meta)
        yield Assign(name + SUFFIX, thoughts if many else thoughts[0])

    def names(self) -> Sequence[str | None]:
        return [name for base in self.expr.names() for name in (base, f"{base}{SUFFIX}")]


def split(text: str, tags: tuple[str, str, bool]) -> tuple[str, str]:
    """Thoughts and answer, both without white space around them."""
    begin, end, always = tags
    if begin not in text and not always:
        return "", text
    thoughts, _, answer = text.partition(begin)[2 if begin in text else 0].partition(end)
    return thoughts.strip(), answer.strip()
