"""Greedy choice, masks, penalties and log-probabilities over a vocabulary, in parts that fill the device."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgcore import kernels
from sgcore_triton.launch import overlap, wait_for_inputs
from sgcore_triton.targets import FLOATS, runs_here

BLOCK = 1024
"""Logits that a program takes at a time."""
PROGRAMS = 4096
"""Most programs for a batch: enough to hide each other's latencies, and for parts of 8192 logits with 256 rows."""
LSE_PART = 8192
"""Logits of one partial sum; fixed, so that a row's result doesn't depend on how many rows there are."""
NO_TOKEN = tl.constexpr(kernels.NO_TOKEN)
INFINITY, NEGATIVE_INFINITY = tl.constexpr(0x7F800000), tl.constexpr(-0x7F800001)
"""As `ranked` orders them; NaN comes after both."""


@triton.jit
def ranked(x, ids):
    """int64 that order by value, then by lower id; NaN is the largest value, as it is to torch."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    order = tl.where(x != x, 0x7FFFFFFF, order)
    return (order.to(tl.int64) << 32) | (0x7FFFFFFF - ids).to(tl.int64)


@triton.jit(do_not_specialize=["part_size"])
def _best_of_part(logits, best, stride, vocab_size, part_size, parts, BLOCK: tl.constexpr, PDL: tl.constexpr):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lowest = -0x7FFFFFFFFFFFFFFF
    found = tl.full((BLOCK,), lowest, tl.int64)
    wait_for_inputs(PDL)
    for start in range(0, part_size, BLOCK):
        ids = part * part_size + start + tl.arange(0, BLOCK)
        x = tl.load(logits + row * stride + ids, mask=ids < vocab_size, other=0.0).to(tl.float32)
        found = tl.maximum(found, tl.where(ids < vocab_size, ranked(x, ids), lowest))
    tl.store(best + row * parts + part, tl.max(found, 0))


@triton.jit
def _best_of_row(best, out, parts, PARTS: tl.constexpr, PDL: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, PARTS)
    wait_for_inputs(PDL)
    ranked = tl.load(best + row * parts + places, mask=places < parts, other=-0x7FFFFFFFFFFFFFFF)
    found = tl.max(ranked, 0)
    order = (found >> 32).to(tl.int32)
    is_finite = (order > NEGATIVE_INFINITY) & (order < INFINITY)
    tl.store(out + row, tl.where(is_finite, 0x7FFFFFFF - (found & 0x7FFFFFFF), NO_TOKEN))


def takes(logits: Tensor) -> bool:
    """Whether the kernels here take these."""
    return runs_here(logits) and logits.dim() == 2 and logits.dtype in FLOATS and logits.stride(1) == 1


def split(rows: int, vocab_size: int) -> tuple[int, int]:
    """How many parts to cut each row into, and the size of one."""
    wanted = max(1, min(PROGRAMS // rows, triton.cdiv(vocab_size, BLOCK)))
    size = triton.cdiv(triton.cdiv(vocab_size, wanted), BLOCK) * BLOCK
    return triton.cdiv(vocab_size, size), size


def greedy(logits: Tensor) -> Tensor:
    """As `Kernels.greedy`; logits (rows, vocabulary) with strided rows."""
    rows, vocab_size = logits.shape
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows == 0:
        return out
    parts, part_size = split(rows, vocab_size)
    best = torch.empty((rows, parts), dtype=torch.int64, device=logits.device)
    early = overlap(logits)
    _best_of_part[(rows, parts)](
        logits, best, logits.stride(0), vocab_size, part_size, parts, BLOCK=BLOCK, num_warps=4, **early
    )
    return best_of_parts(best, out, early)


def best_of_parts(best: Tensor, out: Tensor, early: dict[str, Any]) -> Tensor:
    """`out` (rows,) int64: tokens of the largest of `best` (rows, parts), if that is finite, else `NO_TOKEN`."""
    rows, parts = best.shape
    _best_of_row[(rows,)](best, out, parts, PARTS=triton.next_power_of_2(parts), num_warps=1, **early)
    return out


@triton.jit
def _mask(
    logits, rows, masks, stride, masks_stride, vocab_size, BLOCK: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocab_size
    wait_for_inputs(PDL)
    words = tl.load(masks + place * masks_stride + ids // 32, mask=inside, other=-1)
    is_allowed = ((words >> (ids % 32)) & 1) != 0
    lowest = tl.full((BLOCK,), float("-inf"), tl.float32).to(logits.dtype.element_ty)
    tl.store(logits + tl.load(rows + place) * stride + ids, lowest, mask=inside & (is_allowed == 0))


def mask_logits(logits: Tensor, rows: Tensor, masks: Tensor) -> Tensor:
    """As `Kernels.mask_logits`; only what isn't allowed is written, and no logit is read."""
    vocab_size = logits.shape[1]
    if len(rows):
        _mask[(len(rows), triton.cdiv(vocab_size, BLOCK))](
            logits, rows, masks, logits.stride(0), masks.stride(0), vocab_size, BLOCK=BLOCK, **overlap(logits)
        )
    return logits


@triton.jit
def _penalise(
    logits, counts, is_seen, frequency, presence, repetition, out,
    stride, counts_stride, seen_stride, frequency_stride, presence_stride, repetition_stride, vocab_size,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocab_size
    wait_for_inputs(PDL)
    x = tl.load(logits + row * stride + ids, mask=inside, other=0.0).to(tl.float32)
    count = tl.load(counts + row * counts_stride + ids, mask=inside, other=0).to(tl.float32)
    seen = tl.load(is_seen + row * seen_stride + ids, mask=inside, other=0) != 0
    strength = tl.load(repetition + row * repetition_stride)
    x = tl.where(seen, tl.where(x > 0, x / strength, x * strength), x)
    x -= tl.load(frequency + row * frequency_stride) * count
    x -= tl.load(presence + row * presence_stride) * (count > 0).to(tl.float32)
    tl.store(out + row * vocab_size + ids, x, mask=inside)


def penalise(
    logits: Tensor, output_counts: Tensor, is_seen: Tensor, frequency: Tensor, presence: Tensor, repetition: Tensor
) -> Tensor:
    """As `Kernels.penalise`; rows of the matrices may be strided, and the result is a tensor of its own."""
    rows, vocab_size = logits.shape
    out = torch.empty((rows, vocab_size), dtype=torch.float32, device=logits.device)
    strengths = [each.expand(rows, 1) for each in (frequency, presence, repetition)]
    if rows:
        _penalise[(rows, triton.cdiv(vocab_size, BLOCK))](
            logits, output_counts, is_seen, *strengths, out, logits.stride(0), output_counts.stride(0),
            is_seen.stride(0), *(each.stride(0) for each in strengths), vocab_size, BLOCK=BLOCK, **overlap(logits),
        )  # fmt: skip
    return out


@triton.jit
def _sum_of_part(logits, sums, stride, vocab_size, parts, PART: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """The largest logit of a part, and the sum of exponentials relative to it."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    wait_for_inputs(PDL)
    for start in range(0, PART, BLOCK):
        ids = part * PART + start + tl.arange(0, BLOCK)
        x = tl.load(logits + row * stride + ids, mask=ids < vocab_size, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(largest, x)
        # A lane that has seen only -inf stays at zero.
        base = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp(largest - base) + tl.exp(x - base)
        largest = larger
    peak = tl.max(largest, 0)
    base = tl.where(peak == float("-inf"), 0.0, peak)
    tl.store(sums + (row * parts + part) * 2, peak)
    tl.store(sums + (row * parts + part) * 2 + 1, tl.sum(total * tl.exp(largest - base), 0))


@triton.jit
def _log_of_row(
    logits, sums, tokens, chosen, norm, stride, parts, PARTS: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, PARTS)
    inside = places < parts
    wait_for_inputs(PDL)
    peaks = tl.load(sums + (row * parts + places) * 2, mask=inside, other=float("-inf"))
    totals = tl.load(sums + (row * parts + places) * 2 + 1, mask=inside, other=0.0)
    peak = tl.max(peaks, 0)
    log = peak + tl.log(tl.sum(totals * tl.exp(peaks - peak), 0))
    tl.store(norm + row, log)
    tl.store(chosen + row, tl.load(logits + row * stride + tl.load(tokens + row)).to(tl.float32) - log)


def logprobs(logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `Kernels.logprobs`, without the log-probabilities of the whole vocabulary in memory."""
    rows, vocab_size = logits.shape
    chosen = torch.empty(rows, dtype=torch.float32, device=logits.device)
    norm = torch.empty((rows, 1), dtype=torch.float32, device=logits.device)
    parts = triton.cdiv(vocab_size, LSE_PART)
    sums = torch.empty((rows, parts, 2), dtype=torch.float32, device=logits.device)
    if rows:
        early, stride = overlap(logits), logits.stride(0)
        _sum_of_part[(rows, parts)](logits, sums, stride, vocab_size, parts, PART=LSE_PART, BLOCK=BLOCK, **early)
        _log_of_row[(rows,)](
            logits, sums, tokens.contiguous(), chosen, norm, stride, parts,
            PARTS=triton.next_power_of_2(parts), num_warps=1, **early,
        )  # fmt: skip
    if not top:
        return chosen, logits.new_empty((rows, 0), dtype=torch.float32), tokens[:, None][:, :0]
    values, ids = logits.topk(top, dim=-1)
    return chosen, values.float() - norm, ids
