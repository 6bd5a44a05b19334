"""The way of small host arrays to the device: all of a step's in one copy that nobody waits for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ALIGNMENT = 64
MOST_PLACES = 4096
"""Whose views are remembered."""

Array = npt.NDArray[np.generic]
Place = tuple[int, int, np.dtype[np.generic], tuple[int, ...]]
"""The host buffer, where in it, the type and the shape."""


class StepInputs:
    """Arrays of one step. The same sequence of sizes gives the same device addresses, as a captured graph needs.

    On a device that is the host itself nothing is sent: without a need for addresses `put` hands out the array.
    """

    def __init__(self, device: torch.device, capacity_bytes: int, steps: int = 1, is_static: bool = False) -> None:
        """`steps`: how many may be begun before the first of them has been read back; each has its own host buffer.

        `is_static`: addresses matter on the host, too.
        """
        self._is_host = device.type == "cpu"
        self._is_static = is_static or not self._is_host
        self._used = self._turn = 0
        self._places: dict[Place, tuple[Array, Tensor]] = {}
        if not self._is_host:
            self._hosts = [torch.empty(capacity_bytes, dtype=torch.uint8, pin_memory=True) for _ in range(steps)]
            self._views = [host.numpy() for host in self._hosts]
            self._device = torch.zeros(capacity_bytes, dtype=torch.uint8, device=device)
        elif is_static:
            self._device = torch.empty(capacity_bytes, dtype=torch.uint8)
            self._views = [self._device.numpy()]

    def begin(self) -> None:
        """Start a step: what was put before is no longer needed on the host."""
        self._used = 0
        self._turn = self._turn + 1

    def put(self, array: Array) -> Tensor:
        """A device tensor that holds `array` once `send` was called.

        Raises ValueError if the step's arrays are too large.
        """
        if not self._is_static:
            return torch.from_numpy(np.ascontiguousarray(array))
        begin = -(-self._used // ALIGNMENT) * ALIGNMENT
        self._used = begin + array.nbytes
        place = (self._turn % len(self._views), begin, array.dtype, array.shape)
        view, tensor = self._places.get(place) or self._remembered(place)
        view[...] = array
        return tensor

    def _remembered(self, place: Place) -> tuple[Array, Tensor]:
        """What lies at a place, seen from both sides: many steps put the same sizes."""
        if self._used > len(self._device):
            raise ValueError(f"a step's arrays take over {len(self._device):,} bytes")
        if len(self._places) >= MOST_PLACES:
            self._places.clear()
        buffer, begin, dtype, shape = place
        view = self._views[buffer][begin : self._used].view(dtype).reshape(shape)
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        tensor = self._device[begin : self._used].view(kind).view(shape)
        self._places[place] = view, tensor
        return view, tensor

    def send(self) -> None:
        """Copy everything that was put, in the order of the device's work."""
        if not self._is_host and self._used:
            host = self._hosts[self._turn % len(self._hosts)]
            self._device[: self._used].copy_(host[: self._used], non_blocking=True)

    def send_late(self, array: Array) -> Tensor:
        """An array that comes after `send`, in the order of the device's work."""
        tensor = torch.from_numpy(array)
        return tensor if self._is_host else tensor.pin_memory().to(self._device.device, non_blocking=True)
