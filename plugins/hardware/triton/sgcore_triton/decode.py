"""Attention of rows with one new token, over pages: split along the keys and merged by log-sum-exp.

The split follows "Flash-Decoding" (Dao et al. 2023), the shared prefixes arXiv 2501.01005. Work comes from a list in
device memory, so that a captured graph with a fixed grid serves any lengths.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sgcore_triton.launch import wait_for_inputs
from sgcore_triton.work import ITEM_FIELDS, MEMBER_FIELDS, SHARED_FIELDS

FIELDS = tl.constexpr(ITEM_FIELDS)
OF_GROUP = tl.constexpr(SHARED_FIELDS)
OF_MEMBER = tl.constexpr(MEMBER_FIELDS)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def soft_capped(scores, SOFTCAP: tl.constexpr):
    """`cap * tanh(x / cap)` of scores in units of log 2, in the same units."""
    if SOFTCAP > 0:
        x = scores / (SOFTCAP * LOG2_E)
        # tanh through one exp2; it saturates without overflow on either side.
        scores = SOFTCAP * LOG2_E * (1 - 2 / (1 + tl.exp2(2 * LOG2_E * x)))
    return scores


@triton.jit
def attend_step(
    q, acc, best, total, k_ptr, v_ptr, page, at, d, first, end, oldest, scale, stride_page, stride_token,
    HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, HIDES: tl.constexpr, SOFTCAP: tl.constexpr,
):  # fmt: skip
    """One step over the keys `at` (N,), in `page` (N,), of the online softmax.

    q (M, D); acc (M, D), best and total (M,) are the state. Keys outside [first, end) are not read. With HIDES, query m
    does not see keys before oldest[m].
    """
    is_read = (at >= first) & (at < end)
    place = page.to(tl.int64) * stride_page + (at % PAGE) * stride_token
    # Whatever stands behind the last key may be NaN: it has to be masked on its way in, not only in the scores.
    k = tl.load(k_ptr + place[None, :] + d[:, None], mask=is_read[None, :] & (d < HEAD_DIM)[:, None], other=0.0)
    scores = soft_capped(tl.dot(q, k.to(q.dtype), input_precision="ieee") * scale, SOFTCAP)
    is_seen = is_read[None, :]
    if HIDES:
        is_seen = is_seen & (at[None, :] >= oldest[:, None])
    scores = tl.where(is_seen, scores, float("-inf"))
    new_best = tl.maximum(best, tl.max(scores, 1))
    base = new_best
    if HIDES:
        # A query that sees no key yet has no best score, and -inf - -inf is not a number.
        base = tl.where(new_best == float("-inf"), 0.0, new_best)
    weights = tl.exp2(scores - base[:, None])
    decay = tl.exp2(best - base)
    v = tl.load(v_ptr + place[:, None] + d[None, :], mask=is_read[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
    total = total * decay + tl.sum(weights, 1)
    acc = tl.dot(weights.to(q.dtype), v.to(q.dtype), acc * decay[:, None], input_precision="ieee")
    return acc, new_best, total


@triton.jit
def attend_range(
    q, acc, best, total, k_ptr, v_ptr, table, page, n, d, first, end, oldest, scale, stride_page, stride_token,
    HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, HIDES: tl.constexpr, SOFTCAP: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """All steps over the keys [first, end); `page` (N,) holds the pages of the first step."""
    for begin in tl.range(first // BLOCK_N * BLOCK_N, end, BLOCK_N, num_stages=STAGES):
        at = begin + n
        here = page
        # A step loads the next one's pages: were they the step's own, half of the pipeline's depth would go to them.
        page = tl.load(table + (at + BLOCK_N) // PAGE, mask=at + BLOCK_N < end, other=0)
        acc, best, total = attend_step(
            q, acc, best, total, k_ptr, v_ptr, here, at, d, first, end, oldest, scale, stride_page, stride_token,
            HEAD_DIM, PAGE, HIDES, SOFTCAP,
        )  # fmt: skip
    return acc, best, total


@triton.jit
def decode_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, partial_ptr, lse_ptr, table_ptr, items_ptr, arrived_ptr,
    scale, stride_q, stride_q_head, stride_page, stride_token, stride_head, stride_table,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, CARRIES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One item of a row's own keys and one kv head a program; the row's last program to finish merges its pieces.

    q (tokens, heads, head_dim) strided; pools (pages, PAGE, KV_HEADS, HEAD_DIM); out (tokens, heads, head_dim);
    partial (slots, heads, head_dim) and lse (slots, heads) float32; items (n, ITEM_FIELDS); arrived (rows, KV_HEADS)
    zeros. With CARRIES a row starts from what `shared_kernel` found for it.
    """
    item = items_ptr + tl.program_id(0) // KV_HEADS * FIELDS
    kv_head = tl.program_id(0) % KV_HEADS
    # One round trip: everything about the item stands in it.
    place = tl.load(item).to(tl.int64)
    first = tl.load(item + 1)
    end = tl.load(item + 2)
    row = tl.load(item + 3)
    token = tl.load(item + 4).to(tl.int64)
    oldest = tl.load(item + 5) - WINDOW
    piece = tl.load(item + 6)
    pieces = tl.load(item + 7)
    slot = tl.load(item + 8)
    if first >= end:
        wait_for_inputs(PDL)  # were no program to wait, the next kernel would not wait for the one before this
        return
    if WINDOW > 0:
        first = tl.maximum(first, oldest)
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    table = table_ptr + place * stride_table
    start = first // BLOCK_N * BLOCK_N + n
    page = tl.load(table + start // PAGE, mask=start < end, other=0)
    wait_for_inputs(PDL)
    HEADS: tl.constexpr = KV_HEADS * GROUP
    head = kv_head * GROUP + m
    is_kept = (m < GROUP)[:, None] & (d < HEAD_DIM)[None, :]
    q = tl.load(q_ptr + token * stride_q + head[:, None] * stride_q_head + d[None, :], mask=is_kept, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if CARRIES:
        carried = tl.load(item + 9).to(tl.int64)
        for at in range(tl.load(item + 10)):
            heads = (carried + at) * HEADS + head
            x = tl.load(partial_ptr + heads[:, None] * HEAD_DIM + d[None, :], mask=is_kept, other=0.0)
            lse = tl.load(lse_ptr + heads, mask=m < GROUP, other=0.0)
            acc, best, total = add_part(acc, best, total, x, lse)
    acc, best, total = attend_range(
        q, acc, best, total, k_ptr + kv_head * stride_head, v_ptr + kv_head * stride_head, table, page, n, d, first,
        end, oldest + tl.zeros([BLOCK_M], tl.int32), scale, stride_page, stride_token,
        HEAD_DIM, PAGE, WINDOW > 0, SOFTCAP, BLOCK_N, STAGES,
    )  # fmt: skip
    # A piece may have no key within the window: its result weighs nothing.
    weight = tl.where(total > 0, total, 1.0)
    result = acc / weight[:, None]
    if pieces == 1:
        out = out_ptr + (token * HEADS + head)[:, None] * HEAD_DIM + d[None, :]
        tl.store(out, result.to(out_ptr.dtype.element_ty), mask=is_kept)
    else:
        heads = (slot + piece).to(tl.int64) * HEADS + head
        lse = tl.where(total > 0, best + tl.log2(weight), float("-inf"))
        tl.store(partial_ptr + heads[:, None] * HEAD_DIM + d[None, :], result, mask=is_kept)
        tl.store(lse_ptr + heads, lse, mask=m < GROUP)
        # The partials of the whole program have to be written before it says so.
        tl.debug_barrier()
        counter = arrived_ptr + row * KV_HEADS + kv_head
        if tl.atomic_add(counter, 1, sem="acq_rel") == pieces - 1:
            tl.store(counter, 0)
            merge_pieces(
                partial_ptr, lse_ptr, out_ptr, slot.to(tl.int64), pieces, token, kv_head * GROUP,
                HEADS, GROUP, HEAD_DIM, BLOCK_D, BLOCK_S,
            )  # fmt: skip


@triton.jit
def add_part(acc, best, total, x, lse):
    """Add a partial result x (M, D) with its log-sum-exp (M,) to the state of an online softmax."""
    new_best = tl.maximum(best, lse)
    base = tl.where(new_best == float("-inf"), 0.0, new_best)
    decay = tl.exp2(best - base)
    weight = tl.exp2(lse - base)
    return acc * decay[:, None] + x * weight[:, None], new_best, total * decay + weight


@triton.jit
def shared_kernel(
    q_ptr, k_ptr, v_ptr, partial_ptr, lse_ptr, table_ptr, items_ptr, members_ptr,
    scale, stride_q, stride_q_head, stride_page, stride_token, stride_head, stride_table,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, SUBTILES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One of SUBTILES parts of a group's rows, a piece of the group's prefix and one kv head a program.

    As `decode_kernel`, with items (n, SHARED_FIELDS) and members (n, MEMBER_FIELDS); the results are partial ones.
    """
    item = items_ptr + tl.program_id(0) // (KV_HEADS * SUBTILES) * OF_GROUP
    kv_head = tl.program_id(0) % KV_HEADS
    ROWS: tl.constexpr = BLOCK_M // GROUP
    skipped = tl.program_id(0) // KV_HEADS % SUBTILES * ROWS
    place = tl.load(item).to(tl.int64)
    first = tl.load(item + 1)
    end = tl.load(item + 2)
    member = tl.load(item + 3) + skipped
    rows = tl.minimum(tl.load(item + 4) - skipped, ROWS)
    piece = tl.load(item + 5)
    if (first >= end) | (rows <= 0):
        wait_for_inputs(PDL)
        return
    m = tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    is_query = m < rows * GROUP
    record = members_ptr + (member + m // GROUP) * OF_MEMBER
    token = tl.load(record, mask=is_query, other=0).to(tl.int64)
    oldest = tl.load(record + 1, mask=is_query, other=0) - WINDOW
    slot = tl.load(record + 2, mask=is_query, other=0).to(tl.int64) + piece
    if WINDOW > 0:
        first = tl.minimum(tl.maximum(first, tl.min(tl.where(is_query, oldest, end))), end)
    table = table_ptr + place * stride_table
    start = first // BLOCK_N * BLOCK_N + n
    page = tl.load(table + start // PAGE, mask=start < end, other=0)
    wait_for_inputs(PDL)
    head = kv_head * GROUP + m % GROUP
    is_kept = is_query[:, None] & (d < HEAD_DIM)[None, :]
    q_at = token * stride_q + head * stride_q_head
    q = tl.load(q_ptr + q_at[:, None] + d[None, :], mask=is_kept, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc, best, total = attend_range(
        q, acc, best, total, k_ptr + kv_head * stride_head, v_ptr + kv_head * stride_head, table, page, n, d, first,
        end, oldest, scale, stride_page, stride_token, HEAD_DIM, PAGE, WINDOW > 0, SOFTCAP, BLOCK_N, STAGES,
    )  # fmt: skip
    weight = tl.where(total > 0, total, 1.0)
    heads = slot * (KV_HEADS * GROUP) + head
    tl.store(partial_ptr + heads[:, None] * HEAD_DIM + d[None, :], acc / weight[:, None], mask=is_kept)
    tl.store(lse_ptr + heads, tl.where(total > 0, best + tl.log2(weight), float("-inf")), mask=is_query)


@triton.jit
def merge_pieces(
    partial_ptr, lse_ptr, out_ptr, slot, pieces, token, head,
    HEADS: tl.constexpr, COUNT: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Weigh the partial results of COUNT heads from `head` on, at [slot, slot + pieces), by their log-sum-exp."""
    COUNT_P2: tl.constexpr = triton.next_power_of_2(COUNT)
    d = tl.arange(0, BLOCK_D)
    h = tl.arange(0, COUNT_P2)
    # Piece and head in one dimension: all of a step's loads are in flight together.
    both = tl.arange(0, BLOCK_S * COUNT_P2)
    best = tl.full([COUNT_P2], float("-inf"), tl.float32)
    total = tl.zeros([COUNT_P2], tl.float32)
    acc = tl.zeros([COUNT_P2, BLOCK_D], tl.float32)
    for begin in range(0, pieces, BLOCK_S):
        piece = begin + both // COUNT_P2
        is_read = (piece < pieces) & (both % COUNT_P2 < COUNT)
        at = (slot + piece) * HEADS + head + both % COUNT_P2
        # Written by other multiprocessors in the same launch: past this one's own cache.
        lse = tl.load(lse_ptr + at, mask=is_read, other=float("-inf"), cache_modifier=".cg")
        mask = is_read[:, None] & (d < HEAD_DIM)[None, :]
        x = tl.load(partial_ptr + at[:, None] * HEAD_DIM + d[None, :], mask=mask, other=0.0, cache_modifier=".cg")
        lse = tl.reshape(lse, [BLOCK_S, COUNT_P2])
        new_best = tl.maximum(best, tl.max(lse, 0))
        base = tl.where(new_best == float("-inf"), 0.0, new_best)
        weights = tl.exp2(lse - base[None, :])
        decay = tl.exp2(best - base)
        total = total * decay + tl.sum(weights, 0)
        x = tl.reshape(x, [BLOCK_S, COUNT_P2, BLOCK_D])
        acc = acc * decay[:, None] + tl.sum(x * weights[:, :, None], 0)
        best = new_best
    result = acc / tl.where(total > 0, total, 1.0)[:, None]
    out_at = (token * HEADS + head + h) * HEAD_DIM
    mask = (h < COUNT)[:, None] & (d < HEAD_DIM)[None, :]
    tl.store(out_ptr + out_at[:, None] + d[None, :], result.to(out_ptr.dtype.element_ty), mask=mask)
