"""Any causal language model of transformers on sgcore's attention, cache and linear layers."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from sgcore.api import Build, CacheSpec, HfConfig, Model
from sgcore.errors import LaunchError
from sgcore.layers.attention import Attention
from sgcore.model_config import SIZES, refused
from sgcore_transformers.attention import PLACE, PagedAttention, Step
from sgcore_transformers.build import bare_model, materialise
from sgcore_transformers.norms import replace_norms
from sgcore_transformers.refusals import reasons
from sgcore_transformers.survey import attention_layers, refusal

if TYPE_CHECKING:
    from sgcore.runner.batch import ForwardBatch

NEEDED = ("vocab_size", "hidden_size", "num_attention_heads")


class TransformersModel(nn.Module, Model):
    """The driver `transformers`. Its parameters have transformers' names.

    `forward` runs the decoder, `logits` the architecture's own code behind it: projection, scaling, capping.
    """

    def __init__(self, hf_config: HfConfig, build: Build) -> None:
        super().__init__()
        name = (hf_config.get("architectures") or ["the model"])[0]
        if found := reasons(hf_config):
            raise refusal(name, found[0])
        causal = bare_model(hf_config, build)
        self.prefix = causal.base_model_prefix
        self.renamings = _renamings(causal)
        self.ignored = [re.compile(pattern) for pattern in causal._keys_to_ignore_on_load_unexpected or ()]
        self.tied: Mapping[str, str] = dict(causal.all_tied_weights_keys)
        decoder = causal.get_decoder()
        self.step = Step()
        layers = attention_layers(causal, decoder, _head(causal, decoder), self.step)
        _check_words(hf_config, causal.config)
        replace_norms(causal, build)
        materialise(causal, build, self.tied)
        for index, layer in enumerate(layers):
            layer.module.add_module(PLACE, PagedAttention(layer.attention(build.kernels, index), self.step))
        for child, module in causal.named_children():
            self.add_module(child, module)
        self.known = {parameter for parameter, _ in self.named_parameters(remove_duplicate=False)}
        self.run_decoder, self.run_head = decoder.forward, _head(causal, decoder).forward

    @classmethod
    def refusals(cls, hf_config: HfConfig, context_tokens: int) -> Sequence[str]:
        return refused(hf_config, {"vocab_size": SIZES["vocab_size"]})

    def cache_spec(self) -> CacheSpec:
        found = (module for module in self.modules() if isinstance(module, Attention))
        return CacheSpec(tuple(module.cache for module in sorted(found, key=lambda module: module.index)))

    def rename(self, name: str) -> str | None:
        for renaming in self.renamings:
            name, _ = renaming.rename_source_key(name)
        if name not in self.known and f"{self.prefix}.{name}" in self.known:
            name = f"{self.prefix}.{name}"
        is_ignored = name not in self.known and any(pattern.search(name) for pattern in self.ignored)
        return None if is_ignored else name

    def forward(self, batch: ForwardBatch) -> Tensor:
        self.step.batch = batch
        out = self.run_decoder(input_ids=batch.input_ids[None], position_ids=batch.positions[None], use_cache=False)
        return out.last_hidden_state[0]  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.run_head(inputs_embeds=hidden[None], use_cache=False).logits[0]  # type: ignore[no-any-return]


class Given(nn.Module):
    """In the decoder's place: the hidden states are what comes in."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


def _check_words(hf_config: HfConfig, config: Any) -> None:
    """Some architectures have their own words for what the core and the platforms read of a configuration."""
    lacking = {key: getattr(config, key) for key in NEEDED if key not in hf_config}
    if lacking:
        raise LaunchError(
            f"the model's configuration has no {' and no '.join(lacking)}, only its own words for it",
            f"--json-model-override-args '{json.dumps(lacking)}'",
        )


def _head(causal: Any, decoder: nn.Module) -> Any:
    """`causal` with `Given` for its decoder; every other module is the same object."""
    path = next(name for name, module in causal.named_modules() if module is decoder)
    top = module = _copied(causal)
    *parents, last = path.split(".")
    for name in parents:
        module._modules[name] = module = _copied(module._modules[name])
    module._modules[last] = Given()
    return top


def _copied(module: Any) -> Any:
    made = copy.copy(module)
    made._modules = dict(module._modules)
    return made


def _renamings(causal: Any) -> list[WeightRenaming]:
    """transformers' renamings of old checkpoints. Raises LaunchError where tensors are changed as well."""
    mapping = get_model_conversion_mapping(causal, add_legacy=False)
    if any(type(entry) is not WeightRenaming for entry in mapping):
        raise refusal(type(causal).__name__, "transformers changes its checkpoint's tensors as it loads them")
    return list(mapping)
