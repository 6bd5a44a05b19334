"""The decoder that most models are: embedding, pre-norm blocks of attention and gated MLP, norm, output projection.

A model plugin says what differs (biases, norms on queries and keys, windows) and inherits the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from sgcore.api import Build, CacheSpec, HfConfig, Model
from sgcore.layers.attention import Attention
from sgcore.layers.linear import Embedding, Linear
from sgcore.layers.mlp import GatedMLP
from sgcore.layers.norm import RMSNorm
from sgcore.layers.rotary import RotaryTable
from sgcore.runner.batch import ForwardBatch


class DecoderAttention(nn.Module):
    """Grouped-query attention with rotary positions; norms on q and k where the model has them."""

    def __init__(self, config: HfConfig, build: Build, index: int, rotary: RotaryTable, style: DecoderStyle) -> None:
        super().__init__()
        self.rotary = rotary
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        size, eps = head_dim(config), float(config["rms_norm_eps"])
        sizes = (heads * size, kv_heads * size, kv_heads * size)
        name = f"model.layers.{index}.self_attn"
        hidden = int(config["hidden_size"])
        self.qkv_proj = Linear(build, hidden, sizes, style.qkv_bias(config), f"{name}.qkv_proj")
        self.o_proj = Linear(build, sizes[0], hidden, style.output_bias(config), f"{name}.o_proj")
        self.attention = Attention(build.kernels, index, heads, kv_heads, size, style.window(config, index))
        if style.norms_qk:
            self.q_norm, self.k_norm = RMSNorm(build, size, eps), RMSNorm(build, size, eps)
        self.norms_qk = style.norms_qk
        self.is_last = index == int(config["num_hidden_layers"]) - 1

    def forward(self, norm: RMSNorm, x: Tensor, residual: Tensor | None, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        """Output for the normed sum of x and residual, and the sum; in the last layer, of the tokens that are read."""
        qkv, total = self.qkv_proj.normed(norm, x, residual)
        norms = (self.q_norm.weight, self.k_norm.weight, self.q_norm.eps) if self.norms_qk else None
        x = self.attention.rotary(qkv, norms, *self.rotary.gather(batch), batch)
        if self.is_last:
            x, total = batch.pick(x, total)
        return self.o_proj(x), total


class DecoderStyle:
    """What models of this family differ in. A plugin overrides; nothing here is tied to one of them."""

    norms_qk: bool = False

    def qkv_bias(self, config: HfConfig) -> bool:
        return bool(config.get("attention_bias", False))

    def output_bias(self, config: HfConfig) -> bool:
        return bool(config.get("attention_bias", False))

    def window(self, config: HfConfig, layer: int) -> int | None:
        """Tokens that a layer sees behind each token; None: all."""
        return None


class DecoderLayer(nn.Module):
    """norm, attention, norm, MLP, each with its residual."""

    def __init__(self, config: HfConfig, build: Build, index: int, rotary: RotaryTable, style: DecoderStyle) -> None:
        super().__init__()
        hidden, eps = int(config["hidden_size"]), float(config["rms_norm_eps"])
        self.input_layernorm = RMSNorm(build, hidden, eps)
        self.self_attn = DecoderAttention(config, build, index, rotary, style)
        self.post_attention_layernorm = RMSNorm(build, hidden, eps)
        name = f"model.layers.{index}.mlp"
        self.mlp = GatedMLP(build, hidden, int(config["intermediate_size"]), bool(config.get("mlp_bias")), name)

    def forward(self, x: Tensor, residual: Tensor | None, batch: ForwardBatch) -> tuple[Tensor, Tensor]:
        x, residual = self.self_attn(self.input_layernorm, x, residual, batch)
        return self.mlp(self.post_attention_layernorm, x, residual)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Embedding, layers, final norm; parameter names are Hugging Face's `model.*`."""

    def __init__(self, config: HfConfig, build: Build, style: DecoderStyle) -> None:
        super().__init__()
        hidden = int(config["hidden_size"])
        is_tied = bool(config.get("tie_word_embeddings"))
        self.embed_tokens = Embedding(build, int(config["vocab_size"]), hidden, is_tied)
        rotary = RotaryTable(config, head_dim(config), build)
        count = int(config["num_hidden_layers"])
        self.layers = nn.ModuleList(DecoderLayer(config, build, i, rotary, style) for i in range(count))
        self.norm = RMSNorm(build, hidden, float(config["rms_norm_eps"]))

    def forward(self, batch: ForwardBatch) -> Tensor:
        x, residual = self.embed_tokens(batch.input_ids), None
        for layer in self.layers:
            x, residual = layer(x, residual, batch)
        normed, _ = self.norm.add(x, residual)
        return normed


class DecoderModel(nn.Module, Model):
    """A complete causal language model; subclass it, set `style`, name it in an entry point."""

    packed: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    }
    style: ClassVar[DecoderStyle] = DecoderStyle()

    def __init__(self, hf_config: HfConfig, build: Build) -> None:
        super().__init__()
        self.model = Decoder(hf_config, build, self.style)
        self.is_tied = self.model.embed_tokens.is_tied
        if not self.is_tied:
            vocabulary = int(hf_config["vocab_size"])
            self.lm_head = Linear(build, int(hf_config["hidden_size"]), vocabulary, name="lm_head")

    def cache_spec(self) -> CacheSpec:
        return CacheSpec(tuple(module.cache for module in self.modules() if isinstance(module, Attention)))

    def rename(self, name: str) -> str | None:
        return None if self.is_tied and name.startswith("lm_head.") else name

    def forward(self, batch: ForwardBatch) -> Tensor:
        return self.model(batch)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.embed_tokens.project(hidden) if self.is_tied else self.lm_head(hidden)


def head_dim(config: HfConfig) -> int:
    """`head_dim`, or the hidden size divided by the heads."""
    return int(config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"]))
