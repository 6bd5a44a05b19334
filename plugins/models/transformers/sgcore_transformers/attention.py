"""transformers' attention interface over the paged cache.

No mask function is registered under `NAME`: transformers then builds no mask at all, and looks at no position to find
packed sequences, which would wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import AttentionInterface

from sgcore.layers.attention import Attention

if TYPE_CHECKING:
    from sgcore.runner.batch import ForwardBatch

NAME = "sgcore"
"""Of the implementation, in transformers' configurations."""
PLACE = "sgcore_attention"
"""The submodule of an attention module that attends."""


@dataclass
class Step:
    """The batch that is computed; one for all layers of a model."""

    batch: ForwardBatch | None = None


@dataclass(frozen=True)
class Call:
    """What one attention module asked of the interface."""

    module: nn.Module
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    scale: float | None
    window: int | None
    rest: dict[str, Any]


_calls: ContextVar[list[Call]] = ContextVar("calls")


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """Within, modules without a `PagedAttention` are listed, and attend to nothing."""
    calls: list[Call] = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


class PagedAttention(nn.Module):
    """An `Attention` that takes (1, heads, tokens, head_dim) and gives (1, tokens, heads, head_dim)."""

    def __init__(self, attention: Attention, step: Step) -> None:
        super().__init__()
        self.attention, self.step = attention, step

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert self.step.batch is not None
        q, k, v = (x.squeeze(0).transpose(0, 1).contiguous() for x in (q, k, v))
        return self.attention(q, k, v, self.step.batch).view(1, *q.shape)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """transformers' signature of an attention function; returns (1, tokens, heads, head_dim)."""
    paged = module._modules.get(PLACE)
    if paged is not None:
        return paged(query, key, value), None
    call = Call(module, query, key, value, attention_mask, scaling, sliding_window, rest)
    _calls.get().append(call)
    return query.new_empty(query.shape[:-1] + value.shape[-1:]).transpose(1, 2), None


AttentionInterface.register(NAME, attend)
