"""Tokens to text, one at a time, never splitting a character."""

from __future__ import annotations

from sgcore.tokenizer.tokenizer import Tokenizer

CONTEXT_TOKENS = 6
"""Tokens of the prompt that decoding starts from, so that a word's leading space is kept."""

HELD_TOKENS = 8
"""Bytes that make no character after so many tokens are shown as they are."""


class Detokenizer:
    """Decodes a growing sequence in a window that moves on whenever it ends in a whole character."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int], skip_special: bool = True, spaces: bool = True):
        self._tokenizer, self._skip_special, self._spaces = tokenizer, skip_special, spaces
        self._ids = prompt_ids[-CONTEXT_TOKENS:]
        self._shown = self._decode()

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, self._skip_special, self._spaces)

    def push(self, tokens: list[int], is_last: bool = False) -> str:
        """Text that these tokens add. A character in the making is held back until it is whole or `is_last`."""
        grown = [*self._ids, *tokens]
        self._ids = grown
        text = self._decode()
        if text.endswith("\ufffd") and not is_last and len(grown) < CONTEXT_TOKENS + HELD_TOKENS:
            return ""
        new = text[len(self._shown) :]
        self._ids = grown[-CONTEXT_TOKENS:]
        self._shown = self._decode()
        return new
