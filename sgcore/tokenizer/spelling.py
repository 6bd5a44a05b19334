"""What a vocabulary's own spelling of a token says about its bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A byte in vocabularies with byte fallback."""


def alphabet() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes with.

    Printable characters of Latin-1 stand for themselves, the other bytes for characters from U+0100 in their order
    (`bytes_to_unicode` of GPT-2's encoder).
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(plain))
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


class Spelling:
    """Reads tokens as a vocabulary spells them. `decoder` is a fast tokenizer's, as JSON; None: nothing is known."""

    def __init__(self, decoder: Any) -> None:
        kinds = set(_kinds(decoder))
        self._alphabet = alphabet() if "ByteLevel" in kinds else {}
        self._has_byte_tokens = "ByteFallback" in kinds

    def bytes_of(self, spelt: str) -> bytes | None:
        """The token's bytes; None where its text, decoded, says them."""
        if self._alphabet and all(char in self._alphabet for char in spelt):
            return bytes(self._alphabet[char] for char in spelt)
        found = BYTE_TOKEN.fullmatch(spelt) if self._has_byte_tokens else None
        return bytes.fromhex(found[1]) if found else None


def spelling_of(hf: Any) -> Spelling:
    """The spelling of a Hugging Face tokenizer."""
    fast = getattr(hf, "backend_tokenizer", None)
    return Spelling(None if fast is None or fast.decoder is None else json.loads(fast.decoder.__getstate__()))


def _kinds(decoder: Any) -> Iterator[str]:
    if isinstance(decoder, dict):
        yield str(decoder.get("type"))
        for part in decoder.get("decoders", ()):
            yield from _kinds(part)
