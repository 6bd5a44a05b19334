"""Causal attention of chunks of rows over pages: whatever part of a row is cached, its chunk sees it.

"FlashAttention-2" (arXiv 2307.08691) over a list of query tiles. The query heads of a kv head stand in one tile, so
that keys are read once for all of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sgcore_triton.decode import soft_capped
from sgcore_triton.launch import wait_for_inputs


@triton.jit
def prefill_steps(
    q, acc, best, total, k_ptr, v_ptr, table, n, d, position, begin, stop, end, scale, stride_page, stride_token,
    HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    MASKED: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Steps over the keys [begin, stop); without MASKED all of them exist and are seen by every query."""
    # A step loads the next one's pages: were they the step's own, half of the pipeline's depth would go to them.
    page = tl.load(table + (begin + n) // PAGE, mask=begin + n < end, other=0)
    for first in tl.range(begin, stop, BLOCK_N, num_stages=STAGES):
        at = first + n
        place = page.to(tl.int64) * stride_page + (at % PAGE) * stride_token
        page = tl.load(table + (at + BLOCK_N) // PAGE, mask=at + BLOCK_N < end, other=0)
        k_at = k_ptr + place[None, :] + d[:, None]
        v_at = v_ptr + place[:, None] + d[None, :]
        if MASKED:
            k = tl.load(k_at, mask=(at < end)[None, :] & (d < HEAD_DIM)[:, None], other=0.0)
        elif d.shape[0] != HEAD_DIM:
            k = tl.load(k_at, mask=(d < HEAD_DIM)[:, None], other=0.0)
        else:
            k = tl.load(k_at)
        scores = tl.dot(q, k.to(q.dtype), input_precision="ieee")
        if SOFTCAP > 0:
            scores = soft_capped(scores * scale, SOFTCAP) / scale
        if MASKED:
            is_seen = at[None, :] <= position[:, None]
            if WINDOW > 0:
                is_seen = is_seen & (at[None, :] > position[:, None] - WINDOW)
            scores = tl.where(is_seen, scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, 1) * scale)
        base = new_best
        if MASKED:
            base = tl.where(new_best == float("-inf"), 0.0, new_best)
        weights = tl.exp2(scores * scale - base[:, None])
        decay = tl.exp2(best - base)
        total = total * decay + tl.sum(weights, 1)
        acc = acc * decay[:, None]
        if MASKED:
            v = tl.load(v_at, mask=(at < end)[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
        elif d.shape[0] != HEAD_DIM:
            v = tl.load(v_at, mask=(d < HEAD_DIM)[None, :], other=0.0)
        else:
            v = tl.load(v_at)
        acc = tl.dot(weights.to(q.dtype), v.to(q.dtype), acc, input_precision="ieee")
        best = new_best
    return acc, best, total


@triton.jit
def prefill_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, table_ptr, work_ptr,
    scale, stride_q, stride_q_head, stride_page, stride_token, stride_head, stride_table,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, SUBTILES: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One kv head and one of SUBTILES parts of a tile of `work.prefill_work` a program.

    q (tokens, heads, head_dim) strided; pools (pages, PAGE, KV_HEADS, HEAD_DIM); out (tokens, heads, head_dim).
    """
    tile = work_ptr + tl.program_id(0) // (KV_HEADS * SUBTILES) * 4
    kv_head = tl.program_id(0) % KV_HEADS
    place = tl.load(tile).to(tl.int64)
    # The last part has the most keys and comes first.
    skipped = (SUBTILES - 1 - tl.program_id(0) // KV_HEADS % SUBTILES) * (BLOCK_M // GROUP)
    tokens = tl.minimum(tl.load(tile + 2) - skipped, BLOCK_M // GROUP)
    if tokens <= 0:
        wait_for_inputs(PDL)
        return
    token = tl.load(tile + 1).to(tl.int64) + skipped
    before = tl.load(tile + 3) + skipped
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    offset = m // GROUP
    head = kv_head * GROUP + m % GROUP
    is_kept = (offset < tokens)[:, None] & (d < HEAD_DIM)[None, :]
    wait_for_inputs(PDL)
    q_at = (token + offset) * stride_q + head * stride_q_head
    q = tl.load(q_ptr + q_at[:, None] + d[None, :], mask=is_kept, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    k_head, v_head = k_ptr + kv_head * stride_head, v_ptr + kv_head * stride_head
    table = table_ptr + place * stride_table
    end = before + tokens
    # Queries behind the chunk's last token compute with its keys; nobody stores them.
    position = before + tl.minimum(offset, tokens - 1)
    if WINDOW > 0:
        begin = tl.maximum(before - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
        full = begin
    else:
        begin = 0
        full = (before + 1) // BLOCK_N * BLOCK_N
        acc, best, total = prefill_steps(
            q, acc, best, total, k_head, v_head, table, n, d, position, begin, full, end, scale, stride_page,
            stride_token, HEAD_DIM, PAGE, WINDOW, SOFTCAP, False, BLOCK_N, STAGES,
        )  # fmt: skip
    acc, best, total = prefill_steps(
        q, acc, best, total, k_head, v_head, table, n, d, position, full, end, end, scale, stride_page,
        stride_token, HEAD_DIM, PAGE, WINDOW, SOFTCAP, True, BLOCK_N, STAGES,
    )  # fmt: skip
    result = acc / total[:, None]
    out_at = ((token + offset) * (KV_HEADS * GROUP) + head) * HEAD_DIM
    tl.store(out_ptr + out_at[:, None] + d[None, :], result.to(out_ptr.dtype.element_ty), mask=is_kept)
