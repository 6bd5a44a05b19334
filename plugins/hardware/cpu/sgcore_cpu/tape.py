"""A step recorded as native calls and, between them, torch's operations: replayed without the model's Python.

Recording runs nothing that changes what was there before: native calls are only taken down, and operations of torch see
zeros for what these would give.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sgcore_cpu.library import Function, Library, chosen_level, open_library, recording, replay

EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
UNKNOWN = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXING = {torch.ops.aten.index.Tensor}
"""Of known shape, but for indices that are masks."""
READING = {
    Tensor.tolist: 1, Tensor.numpy: 1, Tensor.__array__: 1, torch.tensor: 1,
    torch.tensor_split: 2, Tensor.tensor_split: 2,
}  # fmt: skip
"""Functions that read values where no operation tells, given so many tensors."""
ZEROS = ("zeros", "zeros_like", "new_zeros")
Rows = tuple[Tensor, Tensor | None]
"""A matrix, or a vector, and the places (rows,) of some of its rows; None: all of them."""


class _Call(ctypes.Structure):
    _fields_ = (("run", ctypes.c_void_p), ("words", ctypes.c_void_p))


class Tape(TorchDispatchMode):
    """Within, what this thread computes is taken down."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch would import its compiler for that."""
        return False

    def __init__(self) -> None:
        super().__init__()
        self.library = open_library(chosen_level())
        self.parts: list[Callable[[], None]] = []
        self.kept: list[Any] = []
        """Whatever recorded addresses point to."""
        self._own: set[int] = set()
        """Storages that were allocated here."""
        self._zeros: dict[int, Tensor] = {}
        """By storage: zeros that no operation of torch has written to, and native calls write what they read."""
        self._calls: list[_Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.kept += read
        _check(func, read)
        if func._schema.is_mutable:
            return self._change(func, args, kwargs, read)
        out = _whole(func, args, kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.kept += made
        known = {_storage(tensor) for tensor in read}
        fresh = [tensor for tensor in made if _storage(tensor) not in known]
        self._own |= {_storage(tensor) for tensor in fresh}
        if fresh and len(fresh) < len(made):
            raise RuntimeError(f"{func} returns a view and something new, so a step with it can't be recorded")
        name = func.__name__.split(".")[0]
        if name in EMPTY:
            made[0].zero_()
        elif name in ZEROS:
            self._zeros[_storage(made[0])] = made[0]
        elif fresh and self.library is not None and (rows := _rows_read(func, args)) is not None:
            _copy_rows(self.library, (fresh[0], None), rows)
        elif fresh:
            self._add(lambda: _copy(fresh, func(*args, **kwargs)))
        return out

    def _change(self, func: Any, args: Any, kwargs: Any, read: list[Tensor]) -> Any:
        """An operation that writes into its arguments; into those that were there before only when replayed."""
        for tensor in read:
            if (zeros := self._zeros.pop(_storage(tensor), None)) is not None:
                self._add(zeros.zero_)
        if self.library is not None and (rows := _rows_written(func, args)) is not None:
            _copy_rows(self.library, rows, (args[3], None))
        else:
            self._add(lambda: func(*args, **kwargs))
        written = kwargs["out"] if "out" in kwargs else args[0]
        return _whole(func, args, kwargs) if _storage(written) in self._own else written

    def add(self, function: Function, arguments: tuple[Any, ...]) -> None:
        words = (ctypes.c_uint64 * len(arguments))(*map(_word, arguments))
        self.kept += [words, arguments]
        self._calls.append(_Call(ctypes.cast(function.from_words, ctypes.c_void_p), ctypes.addressof(words)))

    def _add(self, operation: Callable[[], Any]) -> None:
        self.end_calls()
        self.parts.append(operation)

    def end_calls(self) -> None:
        if self._calls:
            count, calls = len(self._calls), (_Call * len(self._calls))(*self._calls)
            self.parts.append(lambda: replay(calls, count, torch.get_num_threads()))
            self._calls = []

    def run(self) -> None:
        for part in self.parts:
            part()


class _Parts(TorchDispatchMode):
    """Within, operations that depend on values raise."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _check(func, [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)])
        return _whole(func, args, kwargs or {})


class _Reading(TorchFunctionMode):
    """Within, functions that read values without an operation raise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (most := READING.get(func)) and sum(isinstance(x, Tensor) for x in tree_leaves((args, kwargs))) >= most:
            raise _unrecordable(func.__name__)
        return func(*args, **(kwargs or {}))


def _check(func: Any, read: list[Tensor]) -> None:
    """Raises RuntimeError for an operation whose result can't be foreseen; torch's tags say which."""
    if UNKNOWN & set(func.tags) and (func not in INDEXING or any(x.dtype == torch.bool for x in read)):
        raise _unrecordable(func)


def _unrecordable(name: Any) -> RuntimeError:
    return RuntimeError(f"{name} depends on values, so a step with it can't be recorded")


def _whole(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation's result. In inference mode one that is made of others comes whole, and they have the tags."""
    if not func._can_decompose():
        return func(*args, **kwargs)
    with _Parts():
        return func.decompose(*args, **kwargs)


def _word(argument: Any) -> int:
    if argument is None:
        return 0
    if isinstance(argument, float):
        return int(struct.unpack("=Q", struct.pack("=d", argument))[0])
    return int(argument) if isinstance(argument, int) else ctypes.addressof(argument)


def _rows_read(func: Any, args: Any) -> Rows | None:
    """What an operation copies rows from; None: it does something else."""
    if func is torch.ops.aten.embedding.default:
        rows = args[:2]
    elif func is torch.ops.aten.index.Tensor and len(args[1]) == 1:
        rows = args[0], args[1][0]
    elif func is torch.ops.aten.index_select.default and args[1] == 0:
        rows = args[0], args[2]
    else:
        return None
    return rows if _are_rows(*rows) else None


def _rows_written(func: Any, args: Any) -> Rows | None:
    """What an operation copies rows into, from its last argument; None: it does something else."""
    is_known = func is torch.ops.aten.index_copy_.default and args[1] == 0 and args[3].is_contiguous()
    return (args[0], args[2]) if is_known and _are_rows(args[0], args[2]) else None


def _copy_rows(library: Library, to: Rows, source: Rows) -> None:
    """By a native call, which the others need not be interrupted for."""
    sides = [(rows.data_ptr(), len(rows), None if at is None else at.data_ptr()) for rows, at in (to, source)]
    copied = to[0] if to[1] is None else source[0]
    library.copy_rows(*sides[0], *sides[1], len(copied), copied.nbytes // max(1, len(copied)), 1)


def _are_rows(rows: Tensor, places: Tensor) -> bool:
    is_plain = rows.is_contiguous() and rows.dim() > 0
    return is_plain and places.dtype == torch.int64 and places.dim() == 1 and places.is_contiguous()


def _storage(tensor: Tensor) -> int:
    """What tells memory apart; that of a weight which torch's library has packed can't be asked for, nor shared."""
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()


def _copy(into: list[Tensor], out: Any) -> None:
    results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
    for target, result in zip(into, results, strict=True):
        target.copy_(result)


@contextmanager
def recorded() -> Iterator[Tape]:
    """Raises RuntimeError for what can't be recorded."""
    tape = Tape()
    recording.recorder = tape
    try:
        with tape, _Reading():
            yield tape
        tape.end_calls()
    except (IndexError, TypeError, ValueError, AssertionError) as error:  # zeros were no good for an operation
        raise RuntimeError(f"a step can't be recorded: {error}") from error
    finally:
        recording.recorder = None
