"""What decoding alone is bounded by: a token reads every weight once, and memory has its speed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

READ_BYTES = 1 << 29
PASSES = 10
BITS = {"float32": (32.0, 32.0), "int8": (8.25, 8.25), "int4": (4.75, 8.25)}
"""Bits of a weight, scales and zero points included: in the layers, and in the output projection."""


def memory_read_gb_s() -> float:
    """What all cores read together from huge pages, the best of some passes over more than their caches hold."""
    import torch

    from sgcore_cpu.pages import move_to_huge_pages

    numbers = torch.ones(READ_BYTES // 4)
    move_to_huge_pages([numbers])
    fastest = math.inf
    for _ in range(PASSES):
        began = time.perf_counter()
        numbers.sum()
        fastest = min(fastest, time.perf_counter() - began)
    return READ_BYTES / fastest / 1e9


def weight_bytes(config: Mapping[str, Any], form: str) -> int:
    """Bytes that a token of a Llama reads; norms are left out, and so is the embedding, of which it reads a row."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_share = config["num_key_value_heads"] / heads
    attended = heads * (config.get("head_dim") or hidden // heads)
    attention = hidden * attended * (2 + 2 * kv_share)
    layer = attention + 3 * hidden * config["intermediate_size"]
    layer_bits, head_bits = BITS[form]
    return int((layer * config["num_hidden_layers"] * layer_bits + hidden * config["vocab_size"] * head_bits) / 8)


def share(decode_tok_s: float, token_bytes: int, read_gb_s: float) -> dict[str, float]:
    """Columns: what decoding reads a second, and that as a part of what the machine can."""
    reads = decode_tok_s * token_bytes / 1e9
    return {"decode_gb_s": reads, "share_of_ceiling": reads / read_gb_s}
