"""Draw a token from the filtered distribution of each row, without sorting it.

The draw is the largest sum of a logit and its noise among the tokens that are kept. Tokens are ordered as the reference
orders them, by falling probability and then by id, and top-k and top-p keep the first few of that order. So each is a
search: for the first token at which the running weight exceeds a target, where the weight of a token is one, or its
probability. A search descends three levels of bins over the distance to the largest logit, 2048, 1024 and 1024 of them;
the first level serves both searches. Each level is a pass over the logits in parts, so that few rows fill the device as
well; rows without a filter skip its passes.

Mass is an integer, so sums are exact, and a row's token depends on nothing but the row.

Against the reference: distances are kept to 2^-26 and masses to 2^-40 of the largest probability, so that a filter may
keep a token more or less where its limit lies within such an error; a draw differs only if that is its token. Noise is
the same to the last bit, and it spans 25.3, so that tokens 32 below the largest logit, which all count as equally far,
are never drawn.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgcore_triton.launch import overlap, wait_for_inputs
from sgcore_triton.noise import ROUNDED, gumbel, row_key
from sgcore_triton.sampling import BLOCK, best_of_parts, greedy, ranked, split

TOP_BINS = tl.constexpr(2048)
BINS = tl.constexpr(1024)
UNIT = tl.constexpr(67108864.0)
"""2^26 steps a unit of distance: 32 units fill 31 bits."""
FARTHEST = tl.constexpr(0x7FFFFFFF)
ONE = tl.constexpr(1099511627776.0)
"""2^40, the mass of the most probable token: a vocabulary of 2^18 such tokens fits an int64 with room to spare."""

LEVELS = tl.constexpr(2 * 2048)
"""Where the searches' own levels start: behind counts and masses of the first level."""
SEARCH = tl.constexpr(3 * 1024)
"""int64 of one search: counts and masses of the second level, counts of the third."""
TARGET, END, NTH, PLACE, COUNT, MASS = (tl.constexpr(2 * 2048 + 6 * 1024 + field) for field in range(6))
"""Target of the search for top-p (-1: none), distance and place among its equals of the last token that is kept, bin
reached, count and mass before it. END is one more than the distance, and 0 where all tokens are kept."""
DEEPER = tl.constexpr(3)
"""PLACE, COUNT and MASS of the second level are as much further on; a kernel reads the first and writes these."""
SCRATCH = 2 * 2048 + 6 * 1024 + 16
TOP_K, TOP_P = tl.constexpr(0), tl.constexpr(1)


@triton.jit
def _largest(logits, best, row):
    """The row's largest logit; infinite where the row has no token, so that nothing is near it."""
    token = tl.load(best + row)
    return tl.load(logits + token, mask=token >= 0, other=float("inf"))


@triton.jit
def _distance(logits, ids, vocab_size, largest):
    """int32 that order tokens by falling probability; everything that has none comes last."""
    x = tl.load(logits + ids, mask=ids < vocab_size, other=float("-inf"))
    # Of what is infinite or not a number there is no difference to an infinity.
    below = largest - tl.where(x < float("inf"), x, float("-inf"))
    # Infinitely far: the comparison fails, and the conversion is given a number nonetheless.
    is_near = below < 32.0
    return tl.where(is_near, (tl.where(is_near, below, 0.0) * UNIT).to(tl.int32), FARTHEST)


@triton.jit
def _share(distance):
    """The probability relative to the largest one."""
    return tl.exp(distance.to(tl.float32) * (-1.0 / UNIT))


@triton.jit
def _mass(distance):
    return (_share(distance) * ONE + 0.5).to(tl.int64)


@triton.jit
def _cross(counts, masses, target, by_count: tl.constexpr, SIZE: tl.constexpr):
    """The first bin at which the running weight exceeds the target; count and mass before it, and its own count."""
    places = tl.arange(0, SIZE)
    running = tl.cumsum(counts if by_count else masses, 0)
    place = tl.minimum(SIZE - tl.sum((running > target).to(tl.int32), 0), SIZE - 1)
    is_before = places < place
    count, mass = tl.sum(tl.where(is_before, counts, 0), 0), tl.sum(tl.where(is_before, masses, 0), 0)
    return place, count, mass, tl.sum(tl.where(places == place, counts, 0), 0)


@triton.jit
def _first_level(
    logits, best, top_k, top_p, scratch, stride, vocab_size, part_size, SCRATCH: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Add a part of a row to the row's first level."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wait_for_inputs(PDL)
    logits += row * stride
    scratch += row * SCRATCH
    is_counted, p = tl.load(top_k + row) < vocab_size, tl.load(top_p + row)
    if is_counted | (p < 1.0):
        largest = _largest(logits, best, row)
        one = tl.full((BLOCK,), 1, tl.int64)
        for start in range(0, part_size, BLOCK):
            ids = part * part_size + start + tl.arange(0, BLOCK)
            distance = _distance(logits, ids, vocab_size, largest)
            place, mass = distance >> 20, tl.where(p < 1.0, _mass(distance), 0)
            inside = ids < vocab_size
            tl.atomic_add(scratch + place, one, mask=inside & is_counted, sem="relaxed")
            tl.atomic_add(scratch + TOP_BINS + place, mass, mask=inside & (mass > 0), sem="relaxed")


@triton.jit
def _target(top_k, scratch, row, vocab_size, WHICH: tl.constexpr):
    if WHICH == TOP_K:
        k = tl.load(top_k + row)
        target = tl.where(k < vocab_size, tl.maximum(k, 1) - 1, -1)
    else:
        target = tl.load(scratch + TARGET)
    return target


@triton.jit
def _second_level(
    logits, best, top_k, scratch, stride, vocab_size, part_size, WHICH: tl.constexpr, SCRATCH: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Cut the bin of the first level that the search ends in."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wait_for_inputs(PDL)
    logits += row * stride
    scratch += row * SCRATCH
    target = _target(top_k, scratch, row, vocab_size, WHICH)
    if target >= 0:
        bins = tl.arange(0, TOP_BINS)
        counts, masses = tl.load(scratch + bins), tl.load(scratch + TOP_BINS + bins)
        prefix, count, mass, _ = _cross(counts, masses, target, WHICH == TOP_K, TOP_BINS)
        if part == 0:
            tl.store(scratch + PLACE, prefix.to(tl.int64))
            tl.store(scratch + COUNT, count)
            tl.store(scratch + MASS, mass)
        largest = _largest(logits, best, row)
        level = scratch + LEVELS + WHICH * SEARCH
        one = tl.full((BLOCK,), 1, tl.int64)
        for start in range(0, part_size, BLOCK):
            ids = part * part_size + start + tl.arange(0, BLOCK)
            distance = _distance(logits, ids, vocab_size, largest)
            inside = (ids < vocab_size) & ((distance >> 20) == prefix)
            place = (distance >> 10) & (BINS - 1)
            tl.atomic_add(level + place, one, mask=inside, sem="relaxed")
            tl.atomic_add(level + BINS + place, _mass(distance), mask=inside, sem="relaxed")


@triton.jit
def _third_level(
    logits, best, top_k, scratch, stride, vocab_size, part_size, WHICH: tl.constexpr, SCRATCH: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Cut once more: a bin is one distance now, so that its mass follows from its count."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wait_for_inputs(PDL)
    logits += row * stride
    scratch += row * SCRATCH
    target = _target(top_k, scratch, row, vocab_size, WHICH)
    if target >= 0:
        level = scratch + LEVELS + WHICH * SEARCH
        bins = tl.arange(0, BINS)
        counts, masses = tl.load(level + bins), tl.load(level + BINS + bins)
        count, mass = tl.load(scratch + COUNT), tl.load(scratch + MASS)
        place, more, more_mass, _ = _cross(
            counts, masses, target - (count if WHICH == TOP_K else mass), WHICH == TOP_K, BINS
        )
        prefix = tl.load(scratch + PLACE).to(tl.int32) * BINS + place
        if part == 0:
            tl.store(scratch + PLACE + DEEPER, prefix.to(tl.int64))
            tl.store(scratch + COUNT + DEEPER, count + more)
            tl.store(scratch + MASS + DEEPER, mass + more_mass)
        largest = _largest(logits, best, row)
        one = tl.full((BLOCK,), 1, tl.int64)
        for start in range(0, part_size, BLOCK):
            ids = part * part_size + start + tl.arange(0, BLOCK)
            distance = _distance(logits, ids, vocab_size, largest)
            inside = (ids < vocab_size) & ((distance >> 10) == prefix)
            tl.atomic_add(level + 2 * BINS + (distance & (BINS - 1)), one, mask=inside, sem="relaxed")


@triton.jit
def _end(scratch, target, WHICH: tl.constexpr):
    """The distance of the first token past the target, its place among its equals, and the mass up to and with it."""
    bins = tl.arange(0, BINS)
    counts = tl.load(scratch + LEVELS + WHICH * SEARCH + 2 * BINS + bins)
    prefix = tl.load(scratch + PLACE + DEEPER).to(tl.int32) * BINS
    count, mass = tl.load(scratch + COUNT + DEEPER), tl.load(scratch + MASS + DEEPER)
    rest = target - (count if WHICH == TOP_K else mass)
    place, more, more_mass, equals = _cross(counts, counts * _mass(prefix + bins), rest, WHICH == TOP_K, BINS)
    each = _mass(prefix + place)
    nth = rest - more if WHICH == TOP_K else (rest - more_mass) // tl.maximum(each, 1)
    nth = tl.maximum(tl.minimum(nth, equals - 1), 0)
    return prefix + place, nth, mass + more_mass + (nth + 1) * each


@triton.jit
def _settle(top_k, top_p, scratch, vocab_size, SCRATCH: tl.constexpr, PDL: tl.constexpr):
    """What to search for top-p, in what top-k keeps."""
    row = tl.program_id(0).to(tl.int64)
    wait_for_inputs(PDL)
    scratch += row * SCRATCH
    kept = tl.sum(tl.load(scratch + TOP_BINS + tl.arange(0, TOP_BINS)), 0)
    target = _target(top_k, scratch, row, vocab_size, TOP_K)
    if target >= 0:
        _, _, mass = _end(scratch, target, TOP_K)
        kept = tl.minimum(kept, mass)
    p = tl.load(top_p + row)
    target = (p.to(tl.float64) * kept.to(tl.float64)).to(tl.int64)
    tl.store(scratch + TARGET, tl.where((p < 1.0) & (target < kept), target, -1))


@triton.jit
def _count_equals(
    logits, best, top_k, scratch, equals, stride, vocab_size, part_size, parts, SCRATCH: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The last token that is kept, and how many tokens of a part are as far as it."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wait_for_inputs(PDL)
    logits += row * stride
    scratch += row * SCRATCH
    count, mass = _target(top_k, scratch, row, vocab_size, TOP_K), tl.load(scratch + TARGET)
    if (count >= 0) | (mass >= 0):
        if mass >= 0:
            end, nth, _ = _end(scratch, mass, TOP_P)
        else:
            end, nth, _ = _end(scratch, count, TOP_K)
        if part == 0:
            tl.store(scratch + END, end.to(tl.int64) + 1)
            tl.store(scratch + NTH, nth)
        largest = _largest(logits, best, row)
        found = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, part_size, BLOCK):
            ids = part * part_size + start + tl.arange(0, BLOCK)
            is_equal = (ids < vocab_size) & (_distance(logits, ids, vocab_size, largest) == end)
            found += is_equal.to(tl.int32)
        tl.store(equals + row * parts + part, tl.sum(found, 0))


@triton.jit
def _score_part(
    logits, best, min_p, seeds, positions, scratch, equals, scores, stride, vocab_size, part_size, parts,
    SCRATCH: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The largest sum of a logit and its noise among a part's tokens that are kept, as `ranked` orders them."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    places = tl.arange(0, PARTS)
    lowest = -0x7FFFFFFFFFFFFFFF
    found = tl.full((BLOCK,), lowest, tl.int64)
    wait_for_inputs(PDL)
    logits += row * stride
    scratch += row * SCRATCH
    if tl.load(best + row) >= 0:
        largest, floor = _largest(logits, best, row), tl.load(min_p + row)
        key = row_key(tl.load(seeds + row), tl.load(positions + row))
        end, nth = tl.load(scratch + END) - 1, tl.load(scratch + NTH)
        before = tl.load(equals + row * parts + places, mask=(places < part) & (end >= 0), other=0)
        seen = tl.sum(before, 0)
        for start in range(0, part_size, BLOCK):
            ids = part * part_size + start + tl.arange(0, BLOCK)
            x = tl.load(logits + ids, mask=ids < vocab_size, other=float("-inf"))
            distance = _distance(logits, ids, vocab_size, largest)
            is_kept = (x > float("-inf")) & (_share(distance) >= floor)
            if end >= 0:
                is_equal = (ids < vocab_size) & (distance == end)
                rank = seen + tl.cumsum(is_equal.to(tl.int32), 0) - 1
                is_kept = is_kept & ((distance < end) | (is_equal & (rank <= nth)))
                seen += tl.sum(is_equal.to(tl.int32), 0)
            found = tl.maximum(found, tl.where(is_kept, ranked(x + gumbel(key, ids), ids), lowest))
    tl.store(scores + row * parts + part, tl.max(found, 0))


def sample(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """As `Kernels.sample`; logits (rows, vocabulary) float32 with strided rows, the rest (rows,) and contiguous."""
    rows, vocab_size = logits.shape
    best = greedy(logits)
    if rows == 0:
        return best
    scratch = torch.zeros((rows, SCRATCH), dtype=torch.int64, device=logits.device)
    parts, part_size = split(rows, vocab_size)
    equals = torch.empty((rows, parts), dtype=torch.int32, device=logits.device)
    scores = torch.empty((rows, parts), dtype=torch.int64, device=logits.device)
    early = overlap(logits)
    wide = {"SCRATCH": SCRATCH, "BLOCK": BLOCK, "num_warps": 4, **early}
    where = (logits.stride(0), vocab_size, part_size)

    def search(which: int) -> None:
        _second_level[(rows, parts)](logits, best, top_k, scratch, *where, WHICH=which, **wide)
        _third_level[(rows, parts)](logits, best, top_k, scratch, *where, WHICH=which, **wide)

    _first_level[(rows, parts)](logits, best, top_k, top_p, scratch, *where, **wide)
    search(0)
    _settle[(rows,)](top_k, top_p, scratch, vocab_size, SCRATCH=SCRATCH, num_warps=4, **early)
    search(1)
    _count_equals[(rows, parts)](logits, best, top_k, scratch, equals, *where, parts, **wide)
    _score_part[(rows, parts)](
        logits, best, min_p, seeds, positions, scratch, equals, scores, *where, parts,
        PARTS=triton.next_power_of_2(parts), **wide, **ROUNDED,
    )  # fmt: skip
    return best_of_parts(scores, best, early)
