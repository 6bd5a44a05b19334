"""The rotary embedding of transformers' attention modules, left to the kernel that writes the cache.

Their code calls a function of their file, which takes ten kernels on a device. Where it rotates halves, as sgcore's
kernel does, a module gets a forward that calls `Deferred` in its place; nothing changes for anybody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sgcore.kernels import Kernels

if TYPE_CHECKING:
    from sgcore_transformers.attention import Call, Step

FUNCTION = "apply_rotary_pos_emb"


@dataclass(frozen=True)
class Rotation:
    """What a module wanted to be rotated: q, k (1, heads, tokens, head_dim) by cos, sin (1, tokens, head_dim)."""

    q: Tensor
    k: Tensor
    cos: Tensor
    sin: Tensor


@dataclass(frozen=True)
class Deferred:
    """In the function's place: q and k stay as they are until they attend."""

    step: Step

    def __call__(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.step.rotation = Rotation(q, k, cos, sin)
        return q, k


def defer(modules: Iterable[nn.Module], step: Step) -> None:
    """Every module whose code calls a function that rotates halves."""
    known: dict[Any, bool] = {}
    for module in modules:
        forward = type(module).forward
        function = forward.__globals__.get(FUNCTION) if isinstance(forward, FunctionType) else None
        if function is None or FUNCTION not in forward.__code__.co_names:
            continue
        if function not in known:
            known[function] = _rotates_halves(function)
        if known[function]:
            names = {**forward.__globals__, FUNCTION: Deferred(step)}
            own = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
            own.__kwdefaults__ = forward.__kwdefaults__
            module.forward = MethodType(own, module)


def restore(call: Call) -> bool:
    """Undo `defer` for a module that does something else to what it had rotated, or rotates a part; True: it was."""
    rotation = call.rotation
    whole = rotation is not None and rotation.cos.shape == (1, call.q.shape[2], call.q.shape[3])
    if rotation is None or rotation.q is not call.q or rotation.k is not call.k or not whole:
        return vars(call.module).pop("forward", None) is not None
    return False


def _rotates_halves(function: Any) -> bool:
    generator = torch.Generator().manual_seed(0)
    q, k, cos, sin = (torch.randn(1, heads, 5, 8, generator=generator) for heads in (4, 2, 1, 1))
    cos, sin = (torch.cat((x[..., :4], x[..., :4]), -1) for x in (cos, sin))
    try:
        got = function(q, k, cos[0], sin[0])
    except (TypeError, RuntimeError, AttributeError):  # it takes something else
        return False
    expected = Kernels().rope(q, k, cos, sin)
    return len(got) == 2 and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, expected, strict=True))
