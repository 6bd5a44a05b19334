"""Architectures without a plugin of their own, against transformers' own forward pass."""

from __future__ import annotations

from typing import Any

import transformers as hf

from sgcore import Engine
from sgcore.testing.models import ModelSuite

SHAPE: dict[str, Any] = dict(
    vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, head_dim=8, eos_token_id=1, pad_token_id=0, max_position_embeddings=512,
)  # fmt: skip
WINDOWED = dict(layer_types=["sliding_attention", "full_attention"], sliding_window=24)


class Suite(ModelSuite):
    """transformers' own code reads the keys, so the suites of a few architectures, which try each, are enough."""

    test_every_key_of_the_configuration_is_followed_or_refused = None


class TestGemma(ModelSuite):
    config = hf.GemmaConfig(**SHAPE)

    def test_the_plan_says_who_decided(self, engine: Engine) -> None:
        by = {decision.name: decision.decided_by for decision in engine.plan.decisions}
        assert by["model_impl"] == "plugin sgcore-transformers: none offers GemmaForCausalLM"


class TestLlamaByWish(ModelSuite):
    """A model that another plugin offers; `--model-impl` takes this one."""

    config = hf.LlamaConfig(**SHAPE, tie_word_embeddings=True)
    options = {"model_impl": "transformers"}

    def test_the_plan_says_who_decided(self, engine: Engine) -> None:
        by = {decision.name: decision.decided_by for decision in engine.plan.decisions}
        assert by["model_impl"] == "--model-impl"


class TestGemma3(ModelSuite):
    config = hf.Gemma3TextConfig(**SHAPE, **WINDOWED, query_pre_attn_scalar=16, final_logit_softcapping=20.0)


class TestOlmo2(Suite):
    config = hf.Olmo2Config(**SHAPE)


class TestPhi3(Suite):
    config = hf.Phi3Config(**SHAPE)


class TestStableLm(Suite):
    config = hf.StableLmConfig(**SHAPE, use_qkv_bias=True, qk_layernorm=True)


class TestStarcoder2(Suite):
    config = hf.Starcoder2Config(**SHAPE, sliding_window=24)


class TestGPTNeoX(Suite):
    config = hf.GPTNeoXConfig(**SHAPE)


class TestGranite(Suite):
    config = hf.GraniteConfig(**SHAPE, logits_scaling=2.0, embedding_multiplier=3.0, residual_multiplier=0.5)


class TestCohere(Suite):
    config = hf.CohereConfig(**SHAPE, logit_scale=0.25)


class TestCohere2(Suite):
    config = hf.Cohere2Config(**SHAPE, **WINDOWED)


class TestGlm4(Suite):
    config = hf.Glm4Config(**SHAPE)


class TestSmolLM3(Suite):
    config = hf.SmolLM3Config(**SHAPE, no_rope_layers=[1, 0])


class TestErnie45(Suite):
    config = hf.Ernie4_5Config(**SHAPE)


class TestSeedOss(Suite):
    config = hf.SeedOssConfig(**SHAPE)


class TestHelium(Suite):
    config = hf.HeliumConfig(**SHAPE)


class TestOPT(ModelSuite):
    config = hf.OPTConfig(**SHAPE, ffn_dim=96, word_embed_proj_dim=48)
