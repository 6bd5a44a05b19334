"""One choice of a chat completion, as a message and as deltas."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from sgcore.parsing.parser import Parser
from sgcore.parsing.pieces import Piece, joined
from sgcore.server.protocol import Delta, FunctionCall, ReplyMessage, ToolCall, ToolCallDelta


class Answer:
    """Takes text and gives pieces of the message. Without a parser all text is content."""

    def __init__(self, parser: Parser | None, stream_reasoning: bool = True, only_one_call: bool = False) -> None:
        self._parser = parser
        self._streams_reasoning = stream_reasoning
        self._only_one_call = only_one_call
        self._held: list[Piece] = []
        self._has_calls = False

    def add(self, text: str, is_last: bool, is_cut: bool = False) -> list[Piece]:
        """What this text adds; with `is_last` also what was held back, without beginnings of markup if it `is_cut`."""
        if self._parser is None:
            return [Piece("content", text)] if text else []
        pieces = self._parser.feed(text) if text else []
        if is_last:
            pieces += self._parser.finish(is_cut)
        pieces = [piece for piece in pieces if piece.call < 1 or not self._only_one_call]
        self._has_calls = self._has_calls or any(piece.kind == "name" for piece in pieces)
        return pieces if self._streams_reasoning else self._reasoning_at_once(pieces, is_last)

    def _reasoning_at_once(self, pieces: list[Piece], is_last: bool) -> list[Piece]:
        """Reasoning waits until something else comes."""
        pieces = joined(self._held + pieces)
        self._held = pieces[-1:] if not is_last and pieces and pieces[-1].kind == "reasoning" else []
        return pieces[: len(pieces) - len(self._held)]

    def finish_reason(self, reason: str | None) -> str | None:
        """OpenAI's word for why the answer ended."""
        return "tool_calls" if reason == "stop" and self._has_calls else reason


def message_of(pieces: Iterable[Piece]) -> ReplyMessage:
    """The whole message. Its content is null where there are only calls."""
    text = {"content": "", "reasoning": ""}
    calls: list[ToolCall] = []
    for piece in pieces:
        if piece.kind == "name":
            calls.append(ToolCall(_call_id(), FunctionCall(piece.text, "")))
        elif piece.kind == "arguments":
            function = calls[piece.call].function
            function.arguments = f"{function.arguments}{piece.text}"
        else:
            text[piece.kind] += piece.text
    content = text["content"] or (None if calls else "")
    return ReplyMessage(content, reasoning_content=text["reasoning"] or None, tool_calls=calls or None)


def delta_of(piece: Piece) -> Delta:
    """A piece as a chunk's delta."""
    if piece.kind == "content":
        return Delta(content=piece.text)
    if piece.kind == "reasoning":
        return Delta(reasoning_content=piece.text)
    if piece.kind == "name":
        call = ToolCallDelta(piece.call, FunctionCall(piece.text, ""), _call_id(), "function")
    else:
        call = ToolCallDelta(piece.call, FunctionCall(arguments=piece.text))
    return Delta(tool_calls=[call])


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
