"""Time that parsing an answer takes for each token, beside transformers' own parser on the same text."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from harness import arguments, report
from transformers.utils.chat_parsing import ResponseParser

from sgcore.api import ResponseFormat
from sgcore.parsing.formats import Format, joined_format
from sgcore.parsing.parser import Parser

TURN = "<|im_start|>assistant\n"
FIELDS: dict[str, Any] = {
    "reasoning_content": {"open": "<think>", "close": "</think>"},
    "tool_calls": {
        "open": "<tool_call>",
        "close": "</tool_call>",
        "repeats": True,
        "content": "json",
        "transform": {"type": "function", "function": "{content}"},
    },
    "content": {},
}
TEMPLATE = {"start_anchor": TURN, "fields": FIELDS}
TOOLS = [{"type": "function", "function": {"name": "write", "parameters": {"type": "object"}}}]
TOKEN_CHARS = 4
WORDS = "The quick brown fox jumps over the lazy dog, and 12 < 13 if you ask {it}. "


def texts(tokens: int) -> dict[str, str]:
    """Answers of about so many tokens."""
    prose = (WORDS * (tokens * TOKEN_CHARS // len(WORDS) + 1))[: tokens * TOKEN_CHARS]
    arguments_text = json.dumps({"path": "a.py", "lines": [prose[i : i + 60] for i in range(0, len(prose), 60)]})
    return {
        "content": prose,
        "reasoning": f"<think>\n{prose}\n</think>\n\nYes.",
        "arguments": f'<tool_call>\n{{"name": "write", "arguments": {arguments_text}}}\n</tool_call>',
    }


def chunks(text: str) -> list[str]:
    """The text in pieces of a token's length."""
    return [text[start : start + TOKEN_CHARS] for start in range(0, len(text), TOKEN_CHARS)]


def fastest(make: Callable[[], Any], pieces: Sequence[str], repeats: int) -> tuple[float, float]:
    """Microseconds a piece of the fastest pass, and of its slowest piece."""
    best = (float("inf"), 0.0)
    for _ in range(repeats):
        parser, slowest, began = make(), 0.0, time.perf_counter()
        last = began
        for piece in pieces:
            parser.feed(piece)
            now = time.perf_counter()
            slowest, last = max(slowest, now - last), now
        best = min(best, ((last - began) / len(pieces) * 1e6, slowest * 1e6))
    return best


def main() -> int:
    options = arguments(__doc__)
    options.add_argument("--tokens", type=int, nargs="*", default=[200, 2000, 20_000], help="lengths of answers")
    options.add_argument("--repeats", type=int, default=5)
    said = options.parse_args()
    format = joined_format(Format.of(ResponseFormat(TEMPLATE)), Format.of(ResponseFormat(TEMPLATE)))
    assert format is not None
    rows = []
    for tokens in said.tokens:
        for name, text in texts(tokens).items():
            pieces = chunks(text)
            ours, our_slowest = fastest(lambda: Parser(format, "", TOOLS), pieces, said.repeats)
            theirs, _ = fastest(lambda: ResponseParser(TEMPLATE, prefix="", tools=TOOLS), pieces, said.repeats)
            row = {"answer": name, "tokens": len(pieces), "us_a_token": ours, "slowest_us": our_slowest}
            rows.append(row | {"transformers_us": theirs})
    report("parsing", {"Microseconds a token": rows}, said.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
