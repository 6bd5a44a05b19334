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
from sgcore.weights.random import fill_random

Progress = Callable[[int, int | None], None]
"""Called with the tensors done and, where it is known, their number."""
DERIVED = "rotary_emb.inv_freq"
"""Old checkpoints carry this; the configuration says it."""


def load_weights(
    model: nn.Module | Model,
    source: WeightSource,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    report: Progress | None = None,
    scheme: QuantScheme | None = None,
    is_stored: bool = False,
) -> None:
    """Fill every parameter of `model`, which is on `device`; raises `LaunchError` for a tensor too many, few or wrong.

    A random source's values come from `seed`, in `dtype`. Without `report`, a terminal shows a bar. `scheme` may leave
    tensors of its format out. `is_stored`: `source` gives the tensors of its own quantization.
    """
    assert isinstance(model, nn.Module)
    if getattr(source, "is_random", False):
        return fill_random(model, device, dtype, seed)
    target = _Target(model, scheme)
    with _bar() if report is None else _given(report) as progress:
        total = source.tensor_count()
        tensors = source.stored_tensors() if is_stored else source.tensors()
        for done, (name, tensor) in enumerate(tensors, start=1):
            target.put(name, tensor)
            progress(done, total)
    target.check()


class _Target:
    """The model's parameters and which parts of them are still empty."""

    def __init__(self, model: nn.Module, scheme: QuantScheme | None) -> None:
        assert isinstance(model, Model)
        self.model: Model = model
        self.scheme = scheme
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.buffers = {name: tensor for name, tensor in model.state_dict().items() if name not in self.parameters}
        self.tied: Mapping[str, str] = getattr(model, "tied", {})
        self.fused = {part: (stem, index) for stem, parts in model.packed.items() for index, part in enumerate(parts)}
        self.filled: set[tuple[int, int]] = set()

    def put(self, name: str, tensor: Tensor) -> None:
        """Copy one tensor of the checkpoint to where it belongs."""
        renamed = None if name.endswith(DERIVED) else self.model.rename(name)
        if renamed is None or renamed in self.tied:
            return
        if renamed in self.parameters:
            parameter = self.parameters[renamed]
            _copy(name, tensor, parameter, parameter.data, renamed)
            self.filled |= {(id(parameter), index) for index in range(_parts(parameter))}
        elif renamed in self.buffers:
            _copy(name, tensor, self.buffers[renamed], self.buffers[renamed], renamed)
        else:
            self._put_part(name, renamed, tensor)

    def _put_part(self, name: str, renamed: str, tensor: Tensor) -> None:
        path, _, kind = renamed.rpartition(".")
        parent, _, part = path.rpartition(".")
        stem, index = self.fused.get(part, ("", 0))
        fused = f"{parent}.{stem}.{kind}".removeprefix(".")
        parameter = self.parameters.get(fused) if stem else None
        if not isinstance(parameter, PartedParameter):
            if self.scheme is not None and self.scheme.is_unused(name, tensor):
                return
            raise LaunchError(f"the checkpoint's tensor {name} has no place in {type(self.model).__name__}")
        _copy(name, tensor, parameter, parameter.part(index), f"{fused}[{part}]")
        self.filled.add((id(parameter), index))

    def check(self) -> None:
        """Raises `LaunchError` with the names of parameters, or of their parts, that nothing filled."""
        missing = [
            label
            for name, parameter in self.parameters.items()
            if name not in self.tied and not getattr(parameter, "is_optional", False)
            for index, label in enumerate(self._labels(name))
            if (id(parameter), index) not in self.filled
        ]
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise LaunchError(f"the checkpoint has no tensor for {shown}", "it is incomplete or another model's")

    def _labels(self, name: str) -> list[str]:
        """The checkpoint's names for each part of a parameter."""
        path, _, kind = name.rpartition(".")
        parent, _, stem = path.rpartition(".")
        parts = self.model.packed.get(stem)
        return [f"{parent}.{part}.{kind}".removeprefix(".") for part in parts] if parts else [name]


def _parts(parameter: Tensor) -> int:
    return len(parameter.part_entries) if isinstance(parameter, PartedParameter) else 1


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
