"""The decoder that most models are: embedding, pre-norm blocks of attention and gated MLP, norm, output projection.

A model plugin says what differs (biases, norms on queries and keys, windows) and inherits the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from sgcore.api import Build, CacheSpec, HfConfig, Model
from sgcore.layers.attention import Attention
from sgcore.layers.linear import Embedding, Linear
from sgcore.layers.mlp import GatedMLP
from sgcore.layers.norm import RMSNorm
from sgcore.layers.rotary import RotaryTable, rope_refusals
from sgcore.model_config import HEAD, SIZES, Rule, anything, flag, number, one_of, optional
from sgcore.runner.batch import ForwardBatch

MOST_ANGLES = 1 << 31
"""Of a rotary table: 16 million positions of heads of 128."""


class DecoderAttention(nn.Module):
    """Grouped-query attention with rotary positions; norms on q and k where the model has them."""

    def __init__(self, config: HfConfig, build: Build, index: int, rotary: RotaryTable, style: DecoderStyle) -> None:
        super().__init__()
        self.rotary = rotary
        heads = int(config["num_attention_heads"])
        kv_heads = int(config.get("num_key_value_heads") or heads)
        size, eps = head_dim(config), norm_eps(config)
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

    def refusals(self, config: HfConfig) -> Sequence[str]:
        """What of this family's own keys can't be served, as in `Model.refusals`."""
        return ()


class DecoderLayer(nn.Module):
    """norm, attention, norm, MLP, each with its residual."""

    def __init__(self, config: HfConfig, build: Build, index: int, rotary: RotaryTable, style: DecoderStyle) -> None:
        super().__init__()
        hidden, eps = int(config["hidden_size"]), norm_eps(config)
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
        self.norm = RMSNorm(build, hidden, norm_eps(config))

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
    keys: ClassVar[Mapping[str, Rule]] = {
        **dict.fromkeys(("rope_parameters", "rope_scaling", "original_max_position_embeddings"), anything),
        **{key: SIZES[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")},
        "num_attention_heads": SIZES["num_attention_heads"],
        "num_key_value_heads": optional(SIZES["num_key_value_heads"]),
        "head_dim": optional(HEAD),
        "max_position_embeddings": optional(SIZES["max_position_embeddings"]),
        "rms_norm_eps": optional(number),
        "hidden_act": one_of("silu", "swish", None),
        "rope_theta": optional(number),
        "partial_rotary_factor": optional(number),
        **dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings"), flag),
        "is_causal": one_of(True, None),
    }
    style: ClassVar[DecoderStyle] = DecoderStyle()

    @classmethod
    def refusals(cls, hf_config: HfConfig, context_tokens: int) -> Sequence[str]:
        wrong = _head_refusals(hf_config)
        return wrong or [*rope_refusals(hf_config, head_dim(hf_config), context_tokens), *cls.style.refusals(hf_config)]

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


def norm_eps(config: HfConfig) -> float:
    """`rms_norm_eps`, or the value that transformers has for most decoders where it is missing."""
    return float(1e-6 if (eps := config.get("rms_norm_eps")) is None else eps)


def _head_refusals(config: HfConfig) -> list[str]:
    """What doesn't go together of the heads' sizes."""
    heads, hidden, size = config["num_attention_heads"], config["hidden_size"], config.get("head_dim")
    kv_heads = config.get("num_key_value_heads") or heads
    if heads % kv_heads:
        return [f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"]
    if not size and hidden % heads:
        return [f"hidden_size {hidden} is no multiple of num_attention_heads {heads}, and there is no head_dim"]
    if head_dim(config) % 2:
        return [f"head_dim {head_dim(config)} is odd, and halves of heads are rotated"]
    if head_dim(config) * int(config.get("max_position_embeddings") or 0) > MOST_ANGLES:
        return [f"max_position_embeddings {config['max_position_embeddings']:,} are too many for heads of {size}"]
    return []
