"""A request as the scheduler sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sgcore.cache.radix import Node
from sgcore.constraints.progress import Progress
from sgcore.engine.messages import Request


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens, pages and progress of one request. It owns the pages behind `tree_pages`; the tree owns those before."""

    request: Request
    tokens: list[int]
    prompt_tokens: int
    limit: int
    """Length in tokens at which it ends."""
    stop_ids: frozenset[int]
    row: int = -1
    """Place in the runner's state; -1 while waiting."""
    computed: int = 0
    """Tokens whose keys and values are in the cache once every launched step is done."""
    confirmed: int = 0
    """Tokens of completed steps among them."""
    pending: int = 0
    """Sampled tokens of launched steps that have not come back."""
    epoch: int = 0
    """Grows when the row is given up: results of steps launched before are not this one's any more."""
    target: int = 0
    """Tokens to compute before the next one is sampled; while `computed < target` it prefills."""
    pages: list[int] = field(default_factory=list)
    tree_pages: int = 0
    node: Node | None = None
    cached_tokens: int = 0
    retractions: int = 0
    passes: int = 0
    """How often a later one was admitted before it (aging)."""
    admitted: int = 0
    """Order of admission."""
    in_flight: tuple[int, bytes] | None = None
    """The prefix it is computing, for those that wait for it."""
    is_ended: bool = False
    constraint: Progress | None = None
    rejoins: bool = False
    """Its row has tokens that the runner doesn't know yet."""

    @property
    def rid(self) -> str:
        return self.request.rid

    @property
    def body(self) -> str:
        """Requests of the same body get one share of the rows together."""
        return self.request.body or self.request.rid

    @property
    def can_decode(self) -> bool:
        """Whether a token is left to ask for, behind those that are on their way."""
        return len(self.tokens) + self.pending < self.limit

    @property
    def output_tokens(self) -> int:
        return len(self.tokens) - self.prompt_tokens
