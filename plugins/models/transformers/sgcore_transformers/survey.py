"""Which attention layers a model has: found by running it once without data.

On torch's meta device a forward pass computes shapes alone, and reading a value raises. What comes through makes no
host synchronisation and has no shape that depends on data, so that it can be captured as a graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sgcore.errors import LaunchError
from sgcore.kernels import Kernels
from sgcore.layers.attention import Attention
from sgcore_transformers.attention import Call, Step, recorded
from sgcore_transformers.rotary import defer, restore

TOKENS = 3
KNOWN = ("dropout", "position_ids", "use_cache", "output_attentions", "output_hidden_states", "return_dict")
"""Arguments of an attention function that change nothing here."""


@dataclass(frozen=True)
class Layer:
    """One attention layer, in the order of the forward pass."""

    module: nn.Module
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None

    def attention(self, kernels: Kernels, index: int) -> Attention:
        """sgcore's layer of this shape. `index` is its place in the cache."""
        return Attention(kernels, index, self.heads, self.kv_heads, self.head_dim, self.window, self.scale)


def attention_layers(causal: Any, decoder: nn.Module, head: nn.Module, step: Step) -> list[Layer]:
    """The layers of `decoder`, whose parameters are on the meta device, as those of `head`, which gives the logits.

    Those that can leave their rotary embedding to the cache's kernel do so, through `step`. Raises LaunchError where
    one can't work.
    """
    name = type(causal).__name__
    if causal._is_stateful:
        raise refusal(name, "its layers keep a state beside keys and values")
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        raise refusal(name, "its forward pass takes no position_ids")
    defer(decoder.modules(), step)
    ids = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")

    def run() -> tuple[list[Call], Tensor]:
        with _refusing(name), recorded(step) as calls:
            hidden = decoder(input_ids=ids, position_ids=ids, use_cache=False).last_hidden_state
        if problems := [problem for call in calls for problem in _problems(call)]:
            raise refusal(name, problems[0])
        return calls, hidden

    with _buffers_on_meta(causal), torch.inference_mode():
        calls, hidden = run()
        if any([restore(call) for call in calls]):  # their own rotation has not been seen yet
            calls, hidden = run()
        with _refusing(name):
            head(inputs_embeds=hidden, use_cache=False)
    layers = [_layer(call) for call in calls]
    _check_whole(name, causal.config, layers)
    return layers


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise refusal(name, f"its forward pass doesn't run without data: {_first_line(error)}") from error


def refusal(name: str, reason: str) -> LaunchError:
    """The error for an architecture that can't work."""
    return LaunchError(f"{name} can't run through transformers: {reason}", "only a plugin made for it can serve it")


def _problems(call: Call) -> Iterator[str]:
    if not getattr(call.module, "is_causal", True):
        yield "its tokens attend to later ones"
    if call.mask is not None:
        yield "it makes an attention mask of its own"
    if call.k.shape[-1] != call.v.shape[-1] or call.q.shape[-1] != call.k.shape[-1]:
        yield f"its keys have {call.k.shape[-1]} dimensions and its values {call.v.shape[-1]}"
    if call.k.shape[2] != TOKENS:
        yield "its keys are not those of its tokens"
    if other := sorted(key for key, value in call.rest.items() if value is not None and key not in KNOWN):
        yield f"its attention takes {', '.join(other)}, which no attention backend does"


def _layer(call: Call) -> Layer:
    heads, head_dim = call.q.shape[1], call.q.shape[3]
    scale = head_dim**-0.5 if call.scale is None else float(call.scale)
    return Layer(call.module, heads, call.k.shape[1], head_dim, scale, call.window)


def _check_whole(name: str, config: Any, layers: list[Layer]) -> None:
    """That each layer attends once, and through a window where the configuration says so."""
    attending, count = len({id(layer.module) for layer in layers}), int(config.num_hidden_layers)
    if attending != count or len(layers) != count:
        raise refusal(name, f"its {count} layers call transformers' attention interface {len(layers)} times")
    if not _agree(config, [layer.window for layer in layers]):
        raise refusal(name, "its attention and its configuration differ on which layers have a window")


def _agree(config: Any, windows: list[int | None]) -> bool:
    """Whether what the layers ask for is what the configuration says; some leave the window to a mask."""
    size, kinds = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if kinds:
        return windows == [size if kind == "sliding_attention" else None for kind in kinds]
    return not size or any(windows) or not getattr(config, "use_sliding_window", True)


@contextmanager
def _buffers_on_meta(model: nn.Module) -> Iterator[None]:
    kept = [(module, dict(module._buffers)) for module in model.modules()]
    for module, buffers in kept:
        module._buffers.update({key: b if b is None else b.to("meta") for key, b in buffers.items()})
    try:
        yield
    finally:
        for module, buffers in kept:
            module._buffers.update(buffers)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
