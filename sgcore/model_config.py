"""What may stand in a model's configuration: which of its values can be served, and which keys say nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from sgcore.errors import LaunchError

Rule: TypeAlias = Callable[[Any], str | None]
"""Takes the value of a key, None where it is missing; returns what is needed instead, in words, or None."""

SHOWN_CHARACTERS = 60


def size(most: int, least: int = 1) -> Rule:
    """A whole number."""
    needed = f"a whole number from {least:,} to {most:,}"
    return lambda value: None if type(value) is int and least <= value <= most else needed


def number(value: Any) -> str | None:
    """A finite number that is not negative."""
    is_right = type(value) in (int, float) and math.isfinite(value) and value >= 0
    return None if is_right else "a number of at least 0"


def flag(value: Any) -> str | None:
    """true, false or nothing."""
    return None if value is None or isinstance(value, bool) else "true or false"


def anything(value: Any) -> str | None:
    """The key is read, and whoever reads it says what is wrong with it."""
    return None


def text(value: Any) -> str | None:
    """A text."""
    return None if isinstance(value, str) else "a text"


def texts(value: Any) -> str | None:
    """A list of texts."""
    return None if isinstance(value, list) and all(isinstance(part, str) for part in value) else "a list of texts"


def record(value: Any) -> str | None:
    """An object."""
    return None if isinstance(value, Mapping) else "an object"


def optional(rule: Rule) -> Rule:
    """The key may be missing, or null."""
    return lambda value: None if value is None else rule(value)


def one_of(*values: Any) -> Rule:
    """One of `values`."""
    needed = " or ".join("nothing" if value is None else repr(value) for value in values)
    return lambda value: None if any(value is known or value == known for known in values) else needed


WIDTH, COUNT, HEAD, WINDOW = size(1 << 21), size(1 << 12), size(1 << 10, 2), size(1 << 24)
SIZES: Mapping[str, Rule] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), size(1 << 10)),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "intermediate_size", "ffn_dim"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head"), COUNT),
    "head_dim": HEAD,
    **dict.fromkeys(("vocab_size",), size(1 << 24)),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"), WINDOW),
}
"""Sizes that every configuration means alike; the largest published ones are less than an eighth of these."""

BY_LAYER = ("intermediate_size", "ffn_dim", "num_attention_heads", "num_key_value_heads", "head_dim")
"""Sizes that some models have a list of."""

PARTS: Mapping[str, Rule] = {
    "architectures": optional(texts),
    "model_type": optional(text),
    "text_config": optional(record),
    "quantization_config": optional(record),
}
QUANTIZATION: Mapping[str, Rule] = {"quant_method": optional(text)}
"""What the launcher reads of every configuration."""

UNREAD_EVERYWHERE = frozenset(
    (
        # what the launcher and the tokenizer read
        "architectures", "model_type", "dtype", "torch_dtype", "quantization_config", "auto_map", "bos_token_id",
        "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "unk_token_id", "tokenizer_class",
        # the history of the file
        "transformers_version", "name_or_path", "unsloth_version", "unsloth_fixed", "task_specific_params",
        "is_llama_config", "transformers.js_config",
        # how a program runs the model
        "use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript", "use_bfloat16",
        "chunk_size_feed_forward", "pretraining_tp", "attn_implementation", "use_flash_attn", "fused_bias_residual",
        # training
        "initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop",
        "dropout", "residual_dropout", "embedding_dropout", "gradient_checkpointing", "router_aux_loss_coef",
        # other tasks
        "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "prefix",
        "keys_to_ignore_at_inference",
        # defaults of sampling, as old files have them; they belong in generation_config.json
        "do_sample", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "num_beams",
        "num_beam_groups", "diversity_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length",
        "max_length", "max_new_tokens", "bad_words_ids", "num_return_sequences", "output_scores", "early_stopping",
        "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
        "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
    )
)  # fmt: skip
"""Keys that change no logits, in any architecture."""


def check_sizes(hf_config: Mapping[str, Any]) -> None:
    """Raises `LaunchError` for parts and sizes that no model has, before anything is made as large."""
    reasons = refused(hf_config, PARTS) or refused(hf_config.get("quantization_config") or {}, QUANTIZATION)
    reasons = reasons or [
        f"{key} {shown(value)}: needed is {needed}"
        for part in (hf_config, hf_config.get("text_config") or {})
        for key, rule in SIZES.items()
        for value in _each(key, part.get(key))
        if (needed := rule(value)) is not None
    ]
    if reasons:
        raise LaunchError(
            f"the model's configuration can't be right: {'; '.join(reasons)}",
            "is config.json damaged, or overridden by --json-model-override-args?",
        )


def refused(hf_config: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """What each rule has against the configuration."""
    found = ((key, hf_config.get(key), rule(hf_config.get(key))) for key, rule in rules.items())
    return [f"{key} {shown(value)}: needed is {needed}" for key, value, needed in found if needed is not None]


def unread(hf_config: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """Keys that ask for something and that nobody reads."""
    known = rules.keys() | UNREAD_EVERYWHERE
    return sorted(key for key, value in hf_config.items() if value and key not in known and not key.startswith("_"))


def shown(value: Any) -> str:
    """A value for an error's text, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _each(key: str, value: Any) -> Iterator[Any]:
    """A value, or those for single layers; missing ones are none."""
    yield from value if isinstance(value, list) and key in BY_LAYER else [] if value is None else [value]
