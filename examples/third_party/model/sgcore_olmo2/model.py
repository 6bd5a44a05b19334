"""OLMo 2 (arXiv 2501.00656): norms stand behind attention and MLP, and over all heads of q and of k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from sgcore.api import Build, HfConfig
from sgcore.layers.attention import Attention
from sgcore.layers.decoder import DecoderModel, head_dim
from sgcore.layers.linear import Embedding, Linear
from sgcore.layers.norm import RMSNorm
from sgcore.layers.rotary import RotaryTable
from sgcore.model_config import Rule, number
from sgcore.runner.batch import ForwardBatch


class Olmo2Attention(nn.Module):
    """Attention whose q and k are normed before they are cut into heads."""

    def __init__(self, config: HfConfig, build: Build, index: int, rotary: RotaryTable) -> None:
        super().__init__()
        heads, kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
        hidden, size, eps = int(config["hidden_size"]), head_dim(config), float(config["rms_norm_eps"])
        bias, name = bool(config.get("attention_bias")), f"model.layers.{index}.self_attn"
        self.sizes = (heads * size, kv_heads * size, kv_heads * size)
        self.qkv_proj = Linear(build, hidden, self.sizes, bias, f"{name}.qkv_proj")
        self.o_proj = Linear(build, self.sizes[0], hidden, bias, f"{name}.o_proj")
        self.q_norm, self.k_norm = RMSNorm(build, self.sizes[0], eps), RMSNorm(build, self.sizes[1], eps)
        self.attention = Attention(build.kernels, index, heads, kv_heads, size)
        self.rotary = rotary

    def forward(self, x: Tensor, batch: ForwardBatch) -> Tensor:
        q, k, v = (part.contiguous() for part in self.qkv_proj(x).split(self.sizes, dim=-1))
        qkv = torch.cat((self.q_norm(q), self.k_norm(k), v), dim=-1)
        return self.o_proj(self.attention.rotary(qkv, None, *self.rotary.gather(batch), batch))


class Olmo2MLP(nn.Module):
    """down(silu(gate(x)) * up(x))"""

    def __init__(self, config: HfConfig, build: Build, index: int) -> None:
        super().__init__()
        hidden, inner, name = int(config["hidden_size"]), int(config["intermediate_size"]), f"model.layers.{index}.mlp"
        self.gate_up_proj = Linear(build, hidden, (inner, inner), name=f"{name}.gate_up_proj")
        self.down_proj = Linear(build, inner, hidden, name=f"{name}.down_proj")
        self.kernels = build.kernels

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.kernels.silu_mul(self.gate_up_proj(x)))


class Olmo2Layer(nn.Module):
    """attention, norm, residual; MLP, norm, residual"""

    def __init__(self, config: HfConfig, build: Build, index: int, rotary: RotaryTable) -> None:
        super().__init__()
        hidden, eps = int(config["hidden_size"]), float(config["rms_norm_eps"])
        self.self_attn = Olmo2Attention(config, build, index, rotary)
        self.post_attention_layernorm = RMSNorm(build, hidden, eps)
        self.mlp = Olmo2MLP(config, build, index)
        self.post_feedforward_layernorm = RMSNorm(build, hidden, eps)

    def forward(self, x: Tensor, batch: ForwardBatch) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(x, batch))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class Olmo2Decoder(nn.Module):
    """Embedding, layers, final norm."""

    def __init__(self, config: HfConfig, build: Build) -> None:
        super().__init__()
        hidden, count = int(config["hidden_size"]), int(config["num_hidden_layers"])
        self.embed_tokens = Embedding(build, int(config["vocab_size"]), hidden, bool(config.get("tie_word_embeddings")))
        rotary = RotaryTable(config, head_dim(config), build)
        self.layers = nn.ModuleList(Olmo2Layer(config, build, index, rotary) for index in range(count))
        self.norm = RMSNorm(build, hidden, float(config["rms_norm_eps"]))

    def forward(self, batch: ForwardBatch) -> Tensor:
        x = self.embed_tokens(batch.input_ids)
        for layer in self.layers:
            x = layer(x, batch)
        return self.norm(x)


class Olmo2ForCausalLM(DecoderModel):
    """The decoder, and what every language model has around it."""

    keys: ClassVar[Mapping[str, Rule]] = {**DecoderModel.keys, "rms_norm_eps": number}

    def __init__(self, hf_config: HfConfig, build: Build) -> None:
        nn.Module.__init__(self)
        self.model = Olmo2Decoder(hf_config, build)
        self.is_tied = self.model.embed_tokens.is_tied
        if not self.is_tied:
            self.lm_head = Linear(build, int(hf_config["hidden_size"]), int(hf_config["vocab_size"]), name="lm_head")
