"""transformers' attention interface over the paged cache.

No mask function is registered under `NAME`: transformers then builds no mask at all, and looks at no position to find
packed sequences, which would wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from sgcore.layers.attention import Attention
from sgcore_transformers.rotary import Rotation

if TYPE_CHECKING:
    from sgcore.runner.batch import ForwardBatch

NAME = "sgcore"
"""Of the implementation, in transformers' configurations."""
PLACE = "sgcore_attention"
"""The submodule of an attention module that attends."""


@dataclass
class Step:
    """What is computed; one for all layers of a model."""

    batch: ForwardBatch | None = None
    rotation: Rotation | None = None
    """Of the queries and keys that attend next."""

    def take_rotation(self) -> Rotation | None:
        rotation, self.rotation = self.rotation, None
        return rotation


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
    rotation: Rotation | None


@dataclass
class Record:
    """The calls of modules without a `PagedAttention`, which attend to nothing."""

    step: Step
    calls: list[Call] = field(default_factory=list)


_record: ContextVar[Record] = ContextVar("record")


@contextmanager
def recorded(step: Step) -> Iterator[list[Call]]:
    """Within, the calls are listed."""
    record = Record(step)
    token = _record.set(record)
    try:
        yield record.calls
    finally:
        _record.reset(token)


class PagedAttention(nn.Module):
    """An `Attention` that takes (1, heads, tokens, head_dim) and gives (1, tokens, heads, head_dim)."""

    def __init__(self, attention: Attention, step: Step) -> None:
        super().__init__()
        self.attention, self.step = attention, step

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert self.step.batch is not None
        q, k, v = (x.squeeze(0).transpose(0, 1) for x in (q, k, v))
        rotation = self.step.take_rotation()
        if rotation is None:
            out = self.attention(q.contiguous(), k.contiguous(), v.contiguous(), self.step.batch)
        else:
            cos, sin = rotation.cos.transpose(0, 1), rotation.sin.transpose(0, 1)
            out = self.attention.rotary(torch.cat((q, k, v), 1).flatten(1), None, cos, sin, self.step.batch)
        return out.view(1, *q.shape)


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
    record = _record.get()
    rotation = record.step.take_rotation()
    record.calls.append(Call(module, query, key, value, attention_mask, scaling, sliding_window, rest, rotation))
    return query.new_empty(query.shape[:-1] + value.shape[-1:]).transpose(1, 2), None


AttentionInterface.register(NAME, attend)
