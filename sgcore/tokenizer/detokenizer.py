"""Tokens to text, one at a time, never splitting a character."""

from __future__ import annotations

from sgcore.tokenizer.tokenizer import Tokenizer

CONTEXT_TOKENS = 6
"""Tokens of the prompt that decoding starts from, so that a word's leading space is kept."""

CHARACTER_TOKENS = 4
"""A character of UTF-8 has at most so many bytes, and tokens."""

HELD_TOKENS = 8
"""Bytes that make no character after so many tokens are shown as they are."""


class Detokenizer:
    """Decodes a growing sequence in a window that moves on whenever a character is whole."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int], skip_special: bool = True, spaces: bool = True):
        self._tokenizer, self._skip_special, self._spaces = tokenizer, skip_special, spaces
        self._held = list[int]()
        self._context, self._shown = self._window(prompt_ids)

    def _window(self, tokens: list[int]) -> tuple[list[int], str]:
        """The last tokens, from the beginning of a character, and their text.

        Where the first byte of a run of byte tokens is missing, some decoders replace the whole run.
        """
        for size in range(CONTEXT_TOKENS, CONTEXT_TOKENS + CHARACTER_TOKENS):
            text = self._decode(tokens[-size:])
            if not text.startswith("\ufffd"):
                return tokens[-size:], text
        return tokens[-CONTEXT_TOKENS:], self._decode(tokens[-CONTEXT_TOKENS:])

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
        self._held = self._held[count:]
        self._context, self._shown = self._window(grown)
        return new

    def _whole_tokens(self) -> int:
        """Held tokens up to the end of a character; all if there has been none for too long."""
        most = len(self._held)
        for count in range(most, max(most - HELD_TOKENS, 0), -1):
            if not self._decode(self._context + self._held[:count]).endswith("\ufffd"):
                return count
        return most if most >= HELD_TOKENS else 0


class Offsets:
    """Where tokens begin in the text that a detokenizer makes of them."""

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer, self._chars = detokenizer, 0

    def push(self, token: int) -> tuple[int, str]:
        """The place of the next token's first character, and the text that the token completes."""
        offset, added = self._chars, self._detokenizer.push([token])
        self._chars += len(added)
        return offset, added
