"""Copies a checkpoint's tensors into a model's parameters and says by name what doesn't fit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sgcore.api import Model, QuantScheme, WeightSource
from sgcore.errors import LaunchError
from sgcore.layers.parameters import PartedParameter
from sgcore.weights.finishing import Finishing, Slot, slots
from sgcore.weights.kept import KeptLayers
from sgcore.weights.random import fill_random

Progress = Callable[[int, int | None], None]
"""Called with the tensors done and, where it is known, their number."""
DERIVED = "rotary_emb.inv_freq"
"""Old checkpoints carry this; the configuration says it."""
KEPT_BYTES = 1 << 20
"""Smaller tensors are copied: one of them would keep all that was mapped with it."""


def load_weights(
    model: nn.Module | Model,
    source: WeightSource,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    report: Progress | None = None,
    scheme: QuantScheme | None = None,
    is_stored: bool = False,
    kept: KeptLayers | None = None,
) -> None:
    """Fill every parameter of `model`, which is on `device`, and finish its layers, each as soon as it is whole.

    Raises `LaunchError` for a tensor too many, few or wrong. What a layer keeps as it is may stay mapped from the file.
    A random source's values come from `seed`, in `dtype`. Without `report`, a terminal shows a bar. `scheme` may leave
    tensors of its format out. `is_stored`: `source` gives the tensors of its own quantization. `kept`: where the layers
    that are quantised now are had from, or kept.
    """
    assert isinstance(model, nn.Module)
    if getattr(source, "is_random", False):
        fill_random(model, device, dtype, seed)
        return Finishing(model).finish_all()
    target = _Target(model, scheme, Finishing(model, kept))
    target.restore(device)
    is_whole = False
    try:
        with _bar() if report is None else _given(report) as progress:
            total = source.tensor_count()
            tensors = source.stored_tensors() if is_stored else source.tensors()
            for done, (name, tensor) in enumerate(tensors, start=1):
                target.put(name, tensor)
                progress(done, total)
        target.check()
        target.finishing.finish_all()
        is_whole = True
    finally:
        if kept is not None:
            kept.close(is_whole)


class _Target:
    """The model's parameters and which parts of them are still empty."""

    def __init__(self, model: nn.Module, scheme: QuantScheme | None, finishing: Finishing) -> None:
        assert isinstance(model, Model)
        self.model: Model = model
        self.scheme = scheme
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.buffers = {name: tensor for name, tensor in model.state_dict().items() if name not in self.parameters}
        self.tied: Mapping[str, str] = getattr(model, "tied", {})
        self.fused = {part: (stem, index) for stem, parts in model.packed.items() for index, part in enumerate(parts)}
        self.finishing = finishing
        self.empty = self._empty()
        self.restored: frozenset[str] = frozenset()

    def _empty(self) -> dict[Slot, str]:
        """What a checkpoint has to fill, and its name for it."""
        return {
            slot: label
            for name, parameter in self.parameters.items()
            if name not in self.tied and not getattr(parameter, "is_optional", False)
            for slot, label in zip(slots(parameter), self._labels(name), strict=False)
        }

    def restore(self, device: torch.device) -> None:
        """Take the layers that were kept, and leave out the tensors that they were made of."""
        self.restored = frozenset(self.finishing.restore(device))
        for name in self.restored:
            for slot in slots(self.parameters.pop(name)):
                self.empty.pop(slot, None)

    def put(self, name: str, tensor: Tensor) -> None:
        """Copy one tensor of the checkpoint to where it belongs."""
        renamed = None if name.endswith(DERIVED) else self.model.rename(name)
        if renamed is None or renamed in self.tied or renamed in self.restored:
            return
        if renamed in self.parameters:
            parameter = self.parameters[renamed]
            if _is_same(tensor, parameter):
                parameter.data = tensor
            else:
                _copy(name, tensor, parameter, parameter.data, renamed)
            self._fill(slots(parameter))
        elif renamed in self.buffers:
            _copy(name, tensor, self.buffers[renamed], self.buffers[renamed], renamed)
        else:
            self._put_part(name, renamed, tensor)

    def _put_part(self, name: str, renamed: str, tensor: Tensor) -> None:
        path, _, kind = renamed.rpartition(".")
        parent, _, part = path.rpartition(".")
        stem, index = self.fused.get(part, ("", 0))
        fused = f"{parent}.{stem}.{kind}".removeprefix(".")
        if fused in self.restored:
            return
        parameter = self.parameters.get(fused) if stem else None
        if not isinstance(parameter, PartedParameter):
            if self.scheme is not None and self.scheme.is_unused(name, tensor):
                return
            raise LaunchError(f"the checkpoint's tensor {name} has no place in {type(self.model).__name__}")
        _copy(name, tensor, parameter, parameter.part(index), f"{fused}[{part}]")
        self._fill([slots(parameter)[index]])

    def _fill(self, filled: list[Slot]) -> None:
        for slot in filled:
            self.empty.pop(slot, None)
            for name in self.finishing.fill(slot):
                self.parameters.pop(name, None)  # or what the layer was loaded with would stay

    def check(self) -> None:
        """Raises `LaunchError` with the names of parameters, or of their parts, that nothing filled."""
        missing = list(self.empty.values())
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise LaunchError(f"the checkpoint has no tensor for {shown}", "it is incomplete or another model's")

    def _labels(self, name: str) -> list[str]:
        """The checkpoint's names for each part of a parameter."""
        path, _, kind = name.rpartition(".")
        parent, _, stem = path.rpartition(".")
        parts = self.model.packed.get(stem)
        return [f"{parent}.{part}.{kind}".removeprefix(".") for part in parts] if parts else [name]


def _is_same(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor can be the parameter itself, without a copy, and is worth keeping what it is mapped from."""
    is_alike = tensor.shape == parameter.shape and tensor.dtype == parameter.dtype and tensor.device == parameter.device
    return is_alike and tensor.is_contiguous() and tensor.nbytes >= KEPT_BYTES


def _copy(name: str, tensor: Tensor, parameter: Tensor, into: Tensor, where: str) -> None:
    """Copy into a parameter, or a view of its part; floats of two bytes or more may differ in type."""
    same = tensor if tensor.shape == into.shape else None
    fitting = parameter.fit(tensor, into) if isinstance(parameter, PartedParameter) else same
    if fitting is None:
        raise LaunchError(
            f"the checkpoint's tensor {name} has shape {tuple(tensor.shape)}; {where} takes {tuple(into.shape)}",
            "config.json and the weights don't belong together",
        )
    if _kind(tensor) != _kind(into):
        raise LaunchError(
            f"the checkpoint's tensor {name} is {_type(tensor)}; {where} takes {_type(into)}",
            "does quantization_config in config.json belong to these weights?",
        )
    into.data.copy_(fitting)


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Types of one kind hold the same values, but for rounding."""
    is_float = tensor.is_floating_point()
    return is_float, is_float and tensor.element_size() == 1


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@contextmanager
def _given(report: Progress) -> Iterator[Progress]:
    yield report


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading weights", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
