"""One choice of a chat completion, as a message and as deltas."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable

from sgcore.parsing.inputs import InputText
from sgcore.parsing.parser import Parser
from sgcore.parsing.pieces import Piece, joined
from sgcore.server.conversation import INPUT
from sgcore.server.protocol import CustomCall, Delta, FunctionCall, ReplyMessage, ToolCall, ToolCallDelta
from sgcore.server.tools import NO_TOOLS, Tools


class Answer:
    """Takes text and gives pieces of the message. Without a parser all text is content."""

    def __init__(self, parser: Parser | None, stream_reasoning: bool = True, tools: Tools = NO_TOOLS) -> None:
        self.parser = parser
        self._streams_reasoning = stream_reasoning
        self._tools = tools
        self._held: list[Piece] = []
        self._inputs: dict[int, InputText] = {}
        """Texts of the calls of custom tools."""
        self._has_calls = False
        self._counted: dict[int, int] = {}

    def add(self, text: str, is_last: bool, is_cut: bool = False) -> list[Piece]:
        """What this text adds; with `is_last` also what was held back, without beginnings of markup if it `is_cut`."""
        if self.parser is None:
            return [Piece("content", text)] if text else []
        pieces = self.parser.feed(text) if text else []
        if is_last:
            pieces += self.parser.finish(is_cut)
        pieces = [piece for piece in pieces if piece.call < 1 or not self._tools.only_one]
        self._has_calls = self._has_calls or any(piece.kind == "name" for piece in pieces)
        if self._tools.custom:
            pieces = self._with_inputs(pieces, is_last)
        return pieces if self._streams_reasoning else self._reasoning_at_once(pieces, is_last)

    def _with_inputs(self, pieces: list[Piece], is_last: bool) -> list[Piece]:
        """Arguments of custom tools become the text that they stand for."""
        found = []
        for piece in pieces:
            if piece.kind == "name" and piece.text in self._tools.custom:
                self._inputs[piece.call] = InputText(INPUT)
            if piece.kind == "arguments" and piece.call in self._inputs:
                piece = piece._replace(text=self._inputs[piece.call].add(piece.text))
            found.append(piece)
        if is_last:
            found += [Piece("arguments", text.finish(), call) for call, text in self._inputs.items()]
        return [piece for piece in found if piece.text]

    def _reasoning_at_once(self, pieces: list[Piece], is_last: bool) -> list[Piece]:
        """Reasoning waits until something else comes."""
        pieces = joined(self._held + pieces)
        self._held = pieces[-1:] if not is_last and pieces and pieces[-1].kind == "reasoning" else []
        return pieces[: len(pieces) - len(self._held)]

    def finish_reason(self, reason: str | None) -> str | None:
        """OpenAI's word for why the answer ended."""
        called = "function_call" if self._tools.is_legacy else "tool_calls"
        return called if reason == "stop" and self._has_calls else reason

    def reasoning_tokens(self, count: int, tokens_to: Callable[[int], int]) -> int:
        """How many of the answer's `count` tokens are reasoning. `tokens_to`: the tokens up to a place in its text."""

        def at(place: int) -> int:
            if place not in self._counted:
                self._counted[place] = tokens_to(place)
            return self._counted[place]

        regions = self.parser.reasoning if self.parser else ()
        return sum((count if end is None else at(end)) - at(start) for start, end in regions)

    def message(self, pieces: Iterable[Piece]) -> ReplyMessage:
        """The whole message. Its content is null where there are only calls."""
        text = {"content": "", "reasoning": ""}
        names: list[str] = []
        arguments: list[str] = []
        for piece in pieces:
            if piece.kind == "name":
                names.append(piece.text)
                arguments.append("")
            elif piece.kind == "arguments":
                arguments[piece.call] += piece.text
            else:
                text[piece.kind] += piece.text
        content = text["content"] or (None if names else "")
        message = ReplyMessage(content, reasoning_content=text["reasoning"] or None)
        if names and self._tools.is_legacy:
            message.function_call = FunctionCall(names[0], arguments[0])
        elif names:
            message.tool_calls = [self._call(*call) for call in enumerate(zip(names, arguments, strict=True))]
        return message

    def _call(self, place: int, call: tuple[str, str]) -> ToolCall:
        if place in self._inputs:
            return ToolCall(_call_id(), "custom", custom=CustomCall(*call))
        return ToolCall(_call_id(), function=FunctionCall(*call))

    def delta(self, piece: Piece) -> Delta:
        """A piece as a chunk's delta."""
        if piece.kind == "content":
            return Delta(content=piece.text)
        if piece.kind == "reasoning":
            return Delta(reasoning_content=piece.text)
        is_name = piece.kind == "name"
        function = FunctionCall(piece.text, "") if is_name else FunctionCall(arguments=piece.text)
        if self._tools.is_legacy:
            return Delta(function_call=function)
        call = ToolCallDelta(piece.call)
        if is_name:
            call.id, call.type = _call_id(), "custom" if piece.call in self._inputs else "function"
        if piece.call in self._inputs:
            call.custom = CustomCall(piece.text, "") if is_name else CustomCall(input=piece.text)
        else:
            call.function = function
        return Delta(tool_calls=[call])


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
