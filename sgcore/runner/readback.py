"""The way of results to the host: asked for at once, waited for when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sgcore.engine.messages import TokenLogprobs


@dataclass(slots=True)
class Logprobs:
    """Log-probabilities of rows, on either side."""

    tokens: Tensor
    picked: Tensor
    top_values: Tensor
    top_ids: Tensor
    top: list[int]
    """How many of the most probable tokens each row asked for."""
    asked_values: Tensor | None = None
    """(rows, ids): of the tokens that rows asked for by id; the first ones of a row are its own."""
    asked: Sequence[Sequence[int]] = ()

    def to_host(self) -> Logprobs:
        picked, values, ids = to_host(self.picked), to_host(self.top_values), to_host(self.top_ids)
        asked = None if self.asked_values is None else to_host(self.asked_values)
        return Logprobs(to_host(self.tokens), picked, values, ids, self.top, asked, self.asked)

    def entries(self) -> list[TokenLogprobs]:
        """One a row; of host tensors that have arrived."""
        tokens, picked, values, ids = (x.tolist() for x in (self.tokens, self.picked, self.top_values, self.top_ids))
        entries = [
            TokenLogprobs(token, logprob, list(zip(values[i][:top], ids[i][:top], strict=True)))
            for i, (token, logprob, top) in enumerate(zip(tokens, picked, self.top, strict=True))
        ]
        if self.asked_values is not None:
            for entry, row, wanted in zip(entries, self.asked_values.tolist(), self.asked, strict=True):
                entry.asked = list(zip(row, wanted, strict=False))
        return entries


class Arrival:
    """A point in the device's work; `wait` returns once it has been passed."""

    def __init__(self, device: torch.device) -> None:
        self._event = None if device.type == "cpu" else torch.Event(device)
        if self._event is not None:
            self._event.record()

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()


def to_host(tensor: Tensor) -> Tensor:
    """A copy in pinned host memory, to be read after an `Arrival`; the tensor itself if it is there already."""
    return tensor.to("cpu", non_blocking=True)
