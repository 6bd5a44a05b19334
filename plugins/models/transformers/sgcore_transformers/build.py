"""Builds a transformers model on sgcore's layers: buffers as transformers makes them, parameters allocated once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sgcore.api import Build, HfConfig
from sgcore.errors import LaunchError
from sgcore.layers.linear import Linear
from sgcore_transformers.attention import NAME
from sgcore_transformers.survey import refusal

META = torch.device("meta")
NOT_THEIRS = ("quantization_config", "architectures", "dtype", "torch_dtype")
"""Of a configuration: sgcore decides these."""


class BatchedLinear(Linear):
    """`Linear` for transformers' (1, tokens, in)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


def bare_model(hf_config: HfConfig, build: Build) -> Any:
    """The architecture with its parameters on the meta device and its buffers on the build's.

    Raises LaunchError if transformers has no such causal language model, or can't build it.
    """
    name = next(iter(hf_config.get("architectures") or ()), None)
    kind = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(hf_config.get("model_type", ""))
    if name is None or name != kind:
        raise LaunchError(
            f"transformers {transformers.__version__} has no causal language model {name!r} of the type "
            f"{hf_config.get('model_type')!r}",
            "install the plugin that provides it, or a newer transformers",
        )
    try:
        described = {key: value for key, value in hf_config.items() if key not in NOT_THEIRS}
        config = transformers.CONFIG_MAPPING[hf_config["model_type"]].from_dict(described)
        config._attn_implementation = NAME
        with _parameters_on_meta(), _defaults(build):
            return getattr(transformers, name)(config).eval()
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, StrictDataclassError) as error:
        if isinstance(error, KeyError) and error.args == (NAME,):  # it looks for a class of that name
            raise refusal(name, "its layers attend, but not through transformers' attention interface") from error
        raise LaunchError(
            f"transformers can't build {name}: {' '.join(str(error).split())}", "is config.json this model's?"
        ) from error


def materialise(causal: Any, build: Build, tied: Mapping[str, str]) -> None:
    """Give every parameter memory on the build's device, and make each `nn.Linear` one of sgcore's."""
    linears = {name: module for name, module in causal.named_modules() if type(module) is nn.Linear}
    owned = {id(parameter) for module in linears.values() for parameter in module.parameters()}
    shared = {id(causal.get_parameter(source)) for source in tied.values()}
    made = {
        id(parameter): _empty(parameter, build)
        for parameter in causal.parameters()
        if id(parameter) not in owned or id(parameter) in shared
    }
    bare = list(causal.parameters())  # alive, so that no new parameter gets the id of one
    for module in causal.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = made.get(id(parameter), parameter)
    for name, module in linears.items():
        causal.set_submodule(name, _linear(name, module, build))
    del bare


def _linear(name: str, module: nn.Linear, build: Build) -> Linear:
    """A weight that has memory already is an embedding's too, and so never quantised."""
    is_tied = not module.weight.is_meta
    into = replace(build, device=META, scheme=None) if is_tied else build
    has_bias = module.bias is not None
    linear = BatchedLinear(into, module.in_features, module.out_features, has_bias, name)
    if is_tied:
        linear.weight = module.weight
        if has_bias:
            linear.bias = _empty(module.bias, build)
    return linear


def _empty(parameter: nn.Parameter, build: Build) -> nn.Parameter:
    dtype = build.dtype if parameter.is_floating_point() else parameter.dtype
    return nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=build.device), requires_grad=False)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters go to the meta device as modules register them, before anything fills them; buffers stay."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to(META), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@contextmanager
def _defaults(build: Build) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(build.dtype)
    try:
        with build.device:
            yield
    finally:
        torch.set_default_dtype(before)
