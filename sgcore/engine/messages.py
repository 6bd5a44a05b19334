"""What the frontend and the engine core say to each other: typed, msgpack-encodable, and nothing else.

The same structs travel in process (as objects) and over a ZeroMQ ipc socket (as msgpack arrays).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from sgcore.api import Constraint
from sgcore.plugins.plan import Driver

TEXT_CONSTRAINTS = ("json_schema", "regex", "ebnf", "structural_tag")
"""Fields of `SamplingParams` whose text is a constraint, and the kinds of `Constraint` beside `choice`."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How one request is sampled. Names and defaults are SGLang's; `null` means the default.

    `temperature` below 1e-6 is greedy. `top_k` -1 and `top_p` 1 are off. `min_new_tokens` masks end tokens.
    """

    max_new_tokens: int | None = 128
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    sampling_seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_regex: tuple[str, ...] = ()
    """Expressions that end the text where they match, as stop strings do."""
    stop_token_ids: tuple[int, ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    """Nothing else is sampled; empty: all tokens are allowed."""
    bad_words: tuple[str | tuple[int, ...], ...] = ()
    """Texts that aren't generated; the core gets their tokens."""
    ignore_eos: bool = False
    no_stop_trim: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    json_schema: str | None = None
    """JSON text of a schema that the output follows. Of the five constraints a request has at most one."""
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | None = None
    choice: tuple[str, ...] = ()
    logprob_token_ids: tuple[int, ...] = ()
    """Tokens whose log-probabilities are given at each position, where log-probabilities are."""
    constraint_after: str | tuple[int, ...] = ()
    """The output is free until these tokens were generated, where a thinking part ends."""

    @property
    def constraint(self) -> Constraint | None:
        """What the output must follow."""
        for kind in TEXT_CONSTRAINTS:
            text = getattr(self, kind)
            if text is not None:
                return Constraint(kind, text)
        return Constraint("choice", msgspec.json.encode(self.choice).decode()) if self.choice else None


class Request(msgspec.Struct, array_like=True, tag="request"):
    """One sequence to generate: already tokenised, already validated against the engine's limits."""

    rid: str
    input_ids: list[int]
    sampling: SamplingParams
    stop_ids: list[int] = []
    """Token ids that end the row (end-of-sequence ids included unless `ignore_eos`)."""
    logprob_start: int = -1
    """First prompt position whose logprob is wanted; -1: none."""
    top_logprobs: int = -1
    """-1: no logprobs; 0: of the sampled token only; n: also of the n most probable tokens."""
    namespace: str = ""
    """Requests of different namespaces never share cache entries (adapter, tenant salt)."""
    deadline: float | None = None
    """`time.monotonic()` second after which the request is aborted; the clock is one machine's."""
    body: str = ""
    """What it was submitted with; all of a body together get one share of the rows. Empty: it is alone."""


class Vocabulary(msgspec.Struct, array_like=True, tag="vocabulary"):
    """What grammars are made of, sent once, before the first request with a constraint."""

    tokenizer: str
    """The tokenizer as JSON, in the format of Hugging Face's `tokenizers`."""
    eos_ids: list[int]


class Abort(msgspec.Struct, array_like=True, tag="abort"):
    """End these requests wherever they are. Unknown ids are ignored: they have ended already."""

    rids: list[str]
    everything: bool = False


class Pin(msgspec.Struct, array_like=True, tag="pin"):
    """Keep what is cached of these tokens until the group is unpinned; a hint, which may be refused."""

    group: str
    tokens: list[int]
    namespace: str = ""


class Unpin(msgspec.Struct, array_like=True, tag="unpin"):
    """The group has no more requests to come. An unknown one has ended already."""

    group: str


class Command(msgspec.Struct, array_like=True, tag="command"):
    """An administrative question with one `Reply` of the same `call` number."""

    call: int
    name: Literal["flush_cache", "stats", "shutdown"]


class TokenLogprobs(msgspec.Struct, array_like=True):
    """Log-probability of one token and of the most probable alternatives at its position."""

    token: int
    logprob: float | None
    top: list[tuple[float, int]] = []
    asked: list[tuple[float, int]] = []
    """Those of `logprob_token_ids`."""


class Output(msgspec.Struct, array_like=True):
    """What one step produced for one request."""

    rid: str
    tokens: list[int]
    finish: str | None = None
    """None while running; `stop`, `length` or `abort`."""
    matched: int | None = None
    """The stop token that ended it."""
    message: str = ""
    status: int = 200
    """HTTP status that an abort stands for."""
    cached_tokens: int = 0
    logprobs: list[TokenLogprobs] = []
    prompt_logprobs: list[TokenLogprobs] = []
    retractions: int = 0


class Outputs(msgspec.Struct, array_like=True, tag="outputs"):
    """Everything one step produced."""

    items: list[Output]


class Stats(msgspec.Struct, array_like=True, tag="stats"):
    """The core's load, sent at most once a second and after each command that asks."""

    step: int = 0
    running: int = 0
    queued: int = 0
    queued_tokens: int = 0
    used_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    evictable_tokens: int = 0
    prompt_tokens_total: int = 0
    prefix_hit_tokens_total: int = 0
    generated_tokens_total: int = 0
    retractions_total: int = 0
    violations_total: int = 0


class Alive(msgspec.Struct, array_like=True, tag="alive"):
    """The core's process runs, whatever its loop does. Sent every second."""

    turned: float
    """`time.monotonic()` of the loop's last turn; a step may take long."""


class Ready(msgspec.Struct, array_like=True, tag="ready"):
    """The core has its weights and memory; `report` is the start-up table, `limits` what the frontend enforces."""

    report: list[tuple[str, str]]
    max_total_tokens: int
    context_tokens: int


class Reply(msgspec.Struct, array_like=True, tag="reply"):
    """The answer to a `Command`."""

    call: int
    is_ok: bool
    message: str = ""
    stats: Stats | None = None


class Failed(msgspec.Struct, array_like=True, tag="failed"):
    """The core could not start or cannot go on; it ends after this message."""

    message: str
    detail: str = ""
    exit_code: int = 1
    trace: str = ""
    """The traceback of an error that happened before there was a plan."""
    is_device_lost: bool = False
    """Its device failed; a core in a new process may serve on."""


class Found(msgspec.Struct, array_like=True, tag="found"):
    """Where the checkpoint is, from a core that was started with the user's choices and goes on to make the plan."""

    source: Driver
    path: str


class Planned(msgspec.Struct, array_like=True, tag="planned"):
    """What a core decided that was started with the user's choices; it goes on to load the model."""

    plan: str
    """As `Plan.to_json`."""


ToCore = Request | Abort | Pin | Unpin | Command | Vocabulary
FromCore = Outputs | Stats | Alive | Ready | Reply | Failed
