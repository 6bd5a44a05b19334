"""Text to ids and back: a thin face over a Hugging Face tokenizer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sgcore.errors import RequestError
from sgcore.tokenizer.conversation import render_conversation
from sgcore.tokenizer.renderer import RENDERER, RenderProcessEnded, TemplateError
from sgcore.tokenizer.spelling import Spelling, spelling_of


class Tokenizer:
    """What the frontend needs of a tokenizer. `eos_ids` also holds the generation configuration's end tokens."""

    def __init__(self, hf: Any, generation_config: Mapping[str, Any], chat_template: str | None = None) -> None:
        self.hf = hf
        self.chat_template = chat_template
        self.eos_ids = frozenset(end_tokens(generation_config, hf.eos_token_id))
        self.vocab_size = len(hf)
        self.bos_text = str(hf.bos_token or "")
        seam, first, both = (self.encode(text, add_special_tokens=False) for text in ("\n", "a", "\na"))
        self._marks_start = both != seam + first
        self._before = first[-1:]

    @property
    def response_template(self) -> dict[str, Any] | None:
        """The checkpoint's own description of its answers; it fits the checkpoint's own chat template only."""
        template: dict[str, Any] | None = getattr(self.hf, "response_template", None)
        return template if self.chat_template is None else None

    @cached_property
    def special_tokens(self) -> dict[int, str]:
        """Texts of the tokens that `skip_special_tokens` leaves out, by id."""
        return {int(i): str(token.content) for i, token in self.hf.added_tokens_decoder.items() if token.special}

    def special_texts(self) -> frozenset[str]:
        """Texts of the tokens that `skip_special_tokens` leaves out."""
        return frozenset(self.special_tokens.values())

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`."""
        return list(self.hf.encode(text, add_special_tokens=add_special_tokens))

    def encode_first(self, text: str) -> list[int]:
        """Token ids of the beginning of a text, which may spell out its first special token itself."""
        return self.encode(text, not (self.bos_text and text.startswith(self.bos_text)))

    def encode_more(self, text: str) -> list[int]:
        """Token ids of text that continues another: nothing that marks a beginning is added."""
        if not self._marks_start:
            return self.encode(text, add_special_tokens=False)
        seam = self.encode("\n", add_special_tokens=False)
        ids = self.encode("\n" + text, add_special_tokens=False)
        return ids[len(seam) :] if ids[: len(seam)] == seam else self.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True, spaces: bool = True) -> str:
        """Text of `ids`, exactly as they say it (no clean-up of spaces). Ids outside the vocabulary give nothing."""
        return str(
            self.hf.decode(
                [i for i in ids if 0 <= i < self.vocab_size],
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
                spaces_between_special_tokens=spaces,
            )
        )

    def token_text(self, token: int) -> str:
        """The text of one token, special ones included, as it is behind another: a space that begins it is kept."""
        return self.decode([*self._before, token], skip_special_tokens=False)[len(self._before_text) :]

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for, also where they are a part of a character."""
        is_plain = 0 <= token < self.vocab_size and token not in self._added
        spelt = self.hf.convert_ids_to_tokens(token) if is_plain else None
        found = self._spelling.bytes_of(spelt) if isinstance(spelt, str) else None
        return self.token_text(token).encode("utf-8", "surrogatepass") if found is None else found

    @cached_property
    def _before_text(self) -> str:
        return self.decode(self._before)

    @cached_property
    def _spelling(self) -> Spelling:
        return spelling_of(self.hf)

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self.hf.added_tokens_decoder)

    def tokens_to(self, place: int, ids: Sequence[int], skip_special_tokens: bool = True, spaces: bool = True) -> int:
        """How many of `ids` it takes to have `place` characters of their text."""

        def chars(count: int) -> int:
            text = self.decode([*self._before, *ids[:count]], skip_special_tokens, spaces)
            return len(text) - len(self._before_text)

        return bisect_left(range(len(ids)), place, key=chars)

    def to_json(self) -> str:
        """The tokenizer in the format of Hugging Face's `tokenizers`. Raises RequestError if it has none."""
        fast = getattr(self.hf, "backend_tokenizer", None)
        if fast is None:
            raise RequestError("constraints need a fast tokenizer, and this model's is not")
        return str(fast.to_str())

    @property
    def has_chat_template(self) -> bool:
        return self.chat_template is not None or bool(self.hf.chat_template)

    def apply_chat_template(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        """The conversation as a prompt, by the model's own template, rendered in a sandbox in another process.

        Raises RequestError if the template refuses the messages, takes too long for them, or there is none;
        with status 500 if the process that rendered it has ended.
        """
        if not self.has_chat_template:
            raise RequestError("the model has no chat template; give one with --chat-template", param="messages")
        kwargs.setdefault("add_generation_prompt", True)
        template = kwargs.pop("chat_template", None) or self.chat_template
        if self._has_own_renderer:
            return self._render_by_code(messages, {"chat_template": template, **kwargs})
        name = "the chat template"
        try:
            text = self.hf.get_chat_template(template, kwargs.get("tools"))
            name = self._name_of(text)
            return render_conversation(RENDERER, text, messages, {**self.hf.special_tokens_map, **kwargs})
        except RenderProcessEnded as error:
            raise RequestError(f"{name} was not rendered: {error}", status=500) from error
        except (TemplateError, TypeError, ValueError) as error:
            raise RequestError(f"{name} refused the messages: {error}", param="messages") from error

    @cached_property
    def _has_own_renderer(self) -> bool:
        """The tokenizer's class makes the prompt by code of its own, which is trusted as the rest of it."""
        from transformers import PreTrainedTokenizerBase

        own = getattr(type(self.hf), "apply_chat_template", None)
        return own not in (None, PreTrainedTokenizerBase.apply_chat_template)

    def _render_by_code(self, messages: list[dict[str, Any]], arguments: dict[str, Any]) -> str:
        try:
            return str(self.hf.apply_chat_template(messages, tokenize=False, **arguments))
        except Exception as error:
            raise RequestError(f"the tokenizer refused the messages: {error}", param="messages") from error

    def _name_of(self, template: str) -> str:
        if template == self.chat_template:
            return "the template of --chat-template"
        named = self.hf.chat_template if isinstance(self.hf.chat_template, Mapping) else {}
        name = next((name for name, text in named.items() if text == template), None)
        return "the chat template" if name is None else f"the chat template {name!r}"


def end_tokens(generation_config: Mapping[str, Any], eos: int | None = None) -> list[int]:
    """End-of-sequence ids that the generation configuration and the tokenizer name."""
    named = generation_config.get("eos_token_id")
    ids = list(named) if isinstance(named, list) else [named]
    return [int(i) for i in {*ids, eos} if i is not None]
