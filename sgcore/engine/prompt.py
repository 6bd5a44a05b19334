"""What is asked for: one prompt and how it is to be continued."""

from __future__ import annotations

from dataclasses import dataclass

from sgcore.engine.limits import (
    MAX_NAMESPACE_CHARS,
    MAX_RID_CHARS,
    MAX_TOP_LOGPROBS,
    check_name,
    check_number,
    check_text,
    check_timeout,
)
from sgcore.engine.messages import SamplingParams


@dataclass(frozen=True)
class Prompt:
    """One prompt and everything asked of it. Exactly one of `text` and `input_ids` is given."""

    sampling: SamplingParams
    text: str | None = None
    input_ids: list[int] | None = None
    rid: str | None = None
    logprob_start: int = -1
    """First prompt position whose logprob is wanted; -1: none."""
    top_logprobs: int = -1
    """-1: no logprobs; 0: of the sampled token; n: also of the n most probable tokens."""
    namespace: str = ""
    timeout_s: float | None = None
    add_special_tokens: bool = True
    """Whether the tokenizer begins `text` as it begins a document."""
    keep_tokens: int | None = None
    """A longer prompt is cut to so many tokens; -1: to what leaves room for the answer."""
    keeps_end: bool = True
    """Of a prompt that is cut, its end stays; else its beginning."""

    def __post_init__(self) -> None:
        """Raise RequestError for what no server takes. The intake knows the vocabulary and the context."""
        if self.text is not None:
            check_text("text", self.text)
        if self.rid is not None:
            check_name("rid", self.rid, 1, 2 * MAX_RID_CHARS)
        check_number("logprob_start_len", self.logprob_start, -1)
        check_number("top_logprobs_num", self.top_logprobs, -1, MAX_TOP_LOGPROBS)
        if self.keep_tokens not in (None, -1):
            check_number("truncate_prompt_tokens", self.keep_tokens, 1)
        check_name("cache_salt", self.namespace, 0, MAX_NAMESPACE_CHARS)
        check_timeout(self.timeout_s)
