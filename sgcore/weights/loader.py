"""Copies a checkpoint's tensors into a model's parameters and says by name what doesn't fit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sgcore.api import Model, WeightSource
from sgcore.errors import LaunchError
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
) -> None:
    """Fill every parameter of `model`, which is on `device`; raises `LaunchError` for a tensor too many, few or wrong.

    A random source's values come from `seed`, in `dtype`. Without `report`, a terminal shows a bar.
    """
    assert isinstance(model, nn.Module)
    if getattr(source, "is_random", False):
        return fill_random(model, device, dtype, seed)
    target = _Target(model)
    with _bar() if report is None else _given(report) as progress:
        total = source.tensor_count()
        for done, (name, tensor) in enumerate(source.tensors(), start=1):
            target.put(name, tensor)
            progress(done, total)
    target.check()


class _Target:
    """The model's parameters and which parts of them are still empty."""

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, Model)
        self.model: Model = model
        self.modules = dict(model.named_modules(remove_duplicate=False))
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
            self._copy(name, tensor, self.parameters[renamed], renamed)
            parts = len(self._part_sizes(renamed))
            self.filled |= {(id(self.parameters[renamed]), index) for index in range(parts)}
        elif renamed in self.buffers:
            self._copy(name, tensor, self.buffers[renamed], renamed)
        else:
            self._put_part(name, renamed, tensor)

    def _put_part(self, name: str, renamed: str, tensor: Tensor) -> None:
        path, _, kind = renamed.rpartition(".")
        parent, _, part = path.rpartition(".")
        stem, index = self.fused.get(part, ("", 0))
        fused = f"{parent}.{stem}.{kind}".removeprefix(".")
        if not stem or fused not in self.parameters:
            raise LaunchError(f"the checkpoint's tensor {name} has no place in {type(self.model).__name__}")
        sizes = self._part_sizes(fused)
        rows = self.parameters[fused].data.narrow(0, sum(sizes[:index]), sizes[index])
        self._copy(name, tensor, rows, f"{fused}[{part}]")
        self.filled.add((id(self.parameters[fused]), index))

    def _copy(self, name: str, tensor: Tensor, into: Tensor, where: str) -> None:
        if tensor.shape != into.shape:
            raise LaunchError(
                f"the checkpoint's tensor {name} has shape {tuple(tensor.shape)}; {where} takes {tuple(into.shape)}",
                "config.json and the weights don't belong together",
            )
        into.data.copy_(tensor)

    def check(self) -> None:
        """Raises `LaunchError` with the names of parameters, or of their parts, that nothing filled."""
        missing = [
            label
            for name, parameter in self.parameters.items()
            if name not in self.tied
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

    def _part_sizes(self, name: str) -> tuple[int, ...]:
        return getattr(self.modules[name.rpartition(".")[0]], "part_sizes", (0,))


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
