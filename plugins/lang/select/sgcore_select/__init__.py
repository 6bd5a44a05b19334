"""The word `select`: continue with the most likely of some texts."""

from __future__ import annotations

from collections.abc import Sequence

from sgcore.api import Primitive
from sgcore.choices import METHODS
from sgcore.lang import Capture, Score, State, Steps

GREEDY = 1e-5
"""The highest temperature of a choice: it isn't drawn, it is the most likely."""


class Select(Primitive):
    """`select(name, choices=[...])`. Raises ValueError for no choices, a temperature above 0 or an unknown method."""

    def __init__(
        self,
        name: str | None = None,
        choices: Sequence[str] | None = None,
        temperature: float = 0.0,
        choices_method: str = "token_length_normalized",
    ) -> None:
        if not choices or not all(isinstance(choice, str) and choice for choice in choices):
            raise ValueError("select needs choices: a list of texts that aren't empty")
        if temperature > GREEDY:
            raise ValueError(
                f"select takes the most likely choice; temperature {temperature} has no meaning, leave it 0"
            )
        if choices_method not in METHODS:
            raise ValueError(f"unknown choices_method {choices_method!r}; known: {', '.join(METHODS)}")
        self.name = name
        self.choices = tuple(choices)
        self.method = choices_method

    def run(self, state: State) -> Steps:
        yield Capture(self.name, Score(self.choices, self.method))

    def names(self) -> Sequence[str | None]:
        return [self.name]
