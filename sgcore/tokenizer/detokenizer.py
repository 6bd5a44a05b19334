"""Tokens to text, one at a time, never splitting a character."""

from __future__ import annotations

from sgcore.tokenizer.tokenizer import Tokenizer

CONTEXT_TOKENS = 6
"""Tokens of the prompt that decoding starts from, so that a word's leading space is kept."""

HELD_TOKENS = 8
"""Bytes that make no character after so many tokens are shown as they are."""


class Detokenizer:
    """Decodes a growing sequence in a window that moves on whenever a character is whole."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int], skip_special: bool = True, spaces: bool = True):
        self._tokenizer, self._skip_special, self._spaces = tokenizer, skip_special, spaces
        self._context, self._held = prompt_ids[-CONTEXT_TOKENS:], list[int]()
        self._shown = self._decode(self._context)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, self._skip_special, self._spaces)

    def push(self, tokens: list[int], is_last: bool = False) -> str:
        """Text that these tokens add. A character in the making is held back until it is whole or `is_last`."""
        self._held += tokens
        count = len(self._held) if is_last else self._whole_tokens()
        if not count:
            return ""
        grown = self._context + self._held[:count]
        new = self._decode(grown)[len(self._shown) :]
        self._context, self._held = grown[-CONTEXT_TOKENS:], self._held[count:]
        self._shown = self._decode(self._context)
        return new

    def _whole_tokens(self) -> int:
        """Held tokens up to the end of a character; all if there has been none for too long."""
        most = len(self._held)
        for count in range(most, max(most - HELD_TOKENS, 0), -1):
            if not self._decode(self._context + self._held[:count]).endswith("\ufffd"):
                return count
        return most if most >= HELD_TOKENS else 0
