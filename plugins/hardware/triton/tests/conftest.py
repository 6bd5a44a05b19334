"""Mends Triton's interpreter, which the repository's conftest.py switches on where there is no GPU."""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter

_patch_tensor = interpreter._patch_lang_tensor


def _patch_tensor_and_index(tensor: Any, scope: Any) -> None:
    """A scalar bounds a range: Triton 3.6 takes it from an array of one item, which numpy 2.4 no longer converts."""
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patch_tensor_and_index
