"""Mends Triton's interpreter, which the repository's conftest.py switches on where there is no GPU."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from triton.runtime import interpreter

_patch_tensor = interpreter._patch_lang_tensor


def _patch_tensor_and_index(tensor: Any, scope: Any) -> None:
    """A scalar bounds a range: Triton 3.6 takes it from an array of one item, which numpy 2.4 no longer converts."""
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patch_tensor_and_index


_convert_float = interpreter._convert_float


def _convert_and_carry(numbers: Any, input_dtype: Any, output_dtype: Any, rounding_mode: Any) -> Any:
    """Triton 3.6 halves what is rounded up to the next power of two, and gives NaN for what a GPU saturates."""
    if input_dtype in (tl.float32, tl.float16) and output_dtype == tl.float8e4nv:
        return torch.from_numpy(numbers).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return _convert_float(numbers, input_dtype, output_dtype, rounding_mode)


interpreter._convert_float = _convert_and_carry
