"""`sgcore chat`: a conversation in the terminal with a running server, over its OpenAI route."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2

from sgcore.errors import LaunchError

Message = dict[str, str]


def command(words: Sequence[str]) -> Callable[..., int]:
    """The function that cyclopts calls for `words`."""
    return chat


def chat(
    *,
    base_url: str = "http://127.0.0.1:30000",
    model: str | None = None,
    system: str | None = None,
    api_key: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> int:
    """Chat with a running server in the terminal. `/clear` starts anew, `/exit` or Ctrl-D ends.

    Parameters
    ----------
    base_url
        Where the server listens.
    model
        The model's name, if the server has several; its first by default.
    system
        A system message.
    api_key
        The server's key; SGCORE_API_KEY by default.
    max_tokens
        Longest answer in tokens.
    temperature
        Sampling temperature; the model's default if left out.
    """
    key = api_key or os.environ.get("SGCORE_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    asked = {"max_tokens": max_tokens, "temperature": temperature}
    settings = {name: value for name, value in asked.items() if value is not None}
    with httpx2.Client(base_url=base_url, headers=headers, timeout=httpx2.Timeout(10.0, read=None)) as client:
        name = model or _first_model(client)
        return converse(Conversation(client, name, system, settings))


class Conversation:
    """The messages so far, and the way to get the next one."""

    def __init__(self, client: httpx2.Client, model: str, system: str | None, settings: dict[str, Any]) -> None:
        self.model = model
        self._client = client
        self._settings = settings
        self._start: list[Message] = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._start)

    def clear(self) -> None:
        """Forget everything but the system message."""
        self._messages = list(self._start)

    def ask(self, text: str) -> Iterator[str]:
        """The answer as it comes. A turn that fails or is broken off is forgotten. Raises LaunchError."""
        messages = [*self._messages, {"role": "user", "content": text}]
        body = {"model": self.model, "messages": messages, "stream": True, **self._settings}
        pieces: list[str] = []
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise LaunchError(_reason(response))
                for piece in _pieces(httpx2.EventSource(response, max_event_size=None)):
                    pieces.append(piece)
                    yield piece
        except httpx2.HTTPError as error:
            raise _unreachable(self._client, error) from error
        self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]


def converse(conversation: Conversation) -> int:
    """Read lines and print answers until the end of input. Ctrl-C ends an answer, or the program between answers."""
    is_terminal = sys.stdin.isatty()
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the terminal doesn't have ends no conversation
    if is_terminal:
        _enable_line_editing()
        print(f"{conversation.model}; /clear starts anew, /exit ends")
    while True:
        try:
            text = input("> " if is_terminal else "").strip()
        except EOFError:
            return 0
        if text == "/exit":
            return 0
        if text == "/clear":
            conversation.clear()
        elif text:
            _answer(conversation, text)


def _answer(conversation: Conversation, text: str) -> None:
    try:
        for piece in conversation.ask(text):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" (broken off)", end="")
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr, end="")
    print()


def _pieces(events: httpx2.EventSource) -> Iterator[str]:
    """Text of the events of a stream. Raises LaunchError for an error event, and for one that is no JSON object."""
    for sent in events:
        if sent.data == "[DONE]":
            continue
        try:
            event = json.loads(sent.data)
        except ValueError as error:
            raise LaunchError(f"the server sent an event that is no JSON: {sent.data[:200]}") from error
        if not isinstance(event, dict) or "error" in event:
            raise LaunchError(_error_text(event))
        for choice in event.get("choices", []):
            if piece := choice.get("delta", {}).get("content"):
                yield piece


def _first_model(client: httpx2.Client) -> str:
    try:
        response = client.get("/v1/models")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _unreachable(client, error) from error
    if response.status_code != 200:
        raise LaunchError(_reason(response), "is it an OpenAI-compatible server? does it want --api-key?")
    return str(response.json()["data"][0]["id"])


def _unreachable(client: httpx2.Client, error: Exception) -> LaunchError:
    hint = "start one with `sgcore serve MODEL`, or give its address with --base-url"
    return LaunchError(f"no answer from {client.base_url}: {error}", hint)


def _reason(response: httpx2.Response) -> str:
    try:
        text = _error_text(response.json())
    except ValueError:
        text = response.text[:200]
    return f"the server says {response.status_code}: {text}"


def _error_text(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _enable_line_editing() -> None:
    """History and arrow keys for `input`, where Python was built with them."""
    try:
        import readline  # noqa: F401
    except ImportError:
        return
