"""Which norms of a model are sgcore's root-mean-square norm: those that compute the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sgcore.api import Build
from sgcore.kernels import Kernels
from sgcore.layers.norm import RMSNorm

EPS = ("variance_epsilon", "eps")


def replace_norms(causal: Any, build: Build) -> None:
    """Put sgcore's norm, one kernel on a device, in the place of each that gives its values.

    transformers has dozens of classes for it, and some of the same name that compute something else: so each kind is
    tried with random values, in float32.
    """
    known: dict[tuple[type, int, float], bool] = {}
    for name, module in list(causal.named_modules()):
        weight, eps = _weight_and_eps(module)
        if weight is None:
            continue
        key = (type(module), len(weight), eps)
        if key not in known:
            known[key] = _is_rms_norm(module, len(weight), eps)
        if known[key]:
            causal.set_submodule(name, RMSNorm(build, len(weight), eps))


def _weight_and_eps(module: nn.Module) -> tuple[nn.Parameter | None, float]:
    """Of a module that has nothing but one vector and an epsilon."""
    eps = next((getattr(module, name) for name in EPS if isinstance(getattr(module, name, None), float)), None)
    parameters = dict(module.named_parameters())
    has_only_weight = list(parameters) == ["weight"] and parameters["weight"].dim() == 1
    if eps is None or not has_only_weight or list(module.children()) or list(module.buffers()):
        return None, 0.0
    return parameters["weight"], eps


def _is_rms_norm(module: nn.Module, size: int, eps: float) -> bool:
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(shape, generator=generator) for shape in ((size,), (1, 5, size)))
    try:
        got = torch.func.functional_call(module, {"weight": weight}, (x,))
    except (TypeError, RuntimeError):  # it takes more than one tensor
        return False
    return isinstance(got, Tensor) and torch.allclose(got, Kernels().rms_norm(x, weight, eps), atol=1e-5)
