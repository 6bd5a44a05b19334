"""Rotary embedding, norms of the heads and the write to the cache in one kernel."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sgcore.kernels import FLOAT8
from sgcore_triton.launch import overlap, wait_for_inputs
from sgcore_triton.targets import FLOATS, has_float8, runs_here


@triton.jit
def _norm_half(half, rate, scale, DTYPE: tl.constexpr):
    return _rounded(_rounded(half * rate, DTYPE) * scale.to(tl.float32), DTYPE)


@triton.jit
def _rounded(x, DTYPE: tl.constexpr):
    return x.to(DTYPE).to(tl.float32)


@triton.jit(do_not_specialize=["eps", "keys_page", "values_page"])
def _rotary_write(
    qkv, q_norm, k_norm, cos, sin, keys, values, slots,
    qkv_stride, cos_stride, sin_stride, keys_page, keys_token, keys_head, values_page, values_token, values_head, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr, GROUP: tl.constexpr,
    PAGE: tl.constexpr, NORMS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program for `GROUP` heads of a token: q's, then k's, then v's; halves as (heads, HALF) tiles."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * GROUP + tl.arange(0, GROUP)[:, None]
    columns = tl.arange(0, HALF)[None, :]
    half: tl.constexpr = HEAD_DIM // 2
    inside = columns < half
    mask = inside & (heads < HEADS + 2 * KV_HEADS)
    is_key = (heads >= HEADS) & (heads < HEADS + KV_HEADS)
    is_value = (heads >= HEADS + KV_HEADS) & (heads < HEADS + 2 * KV_HEADS)
    dtype: tl.constexpr = qkv.dtype.element_ty
    if NORMS:
        scale = tl.where(heads < HEADS, q_norm, k_norm) + columns
        scale_first = tl.load(scale, mask=mask, other=0.0)
        scale_second = tl.load(scale + half, mask=mask, other=0.0)
    wait_for_inputs(PDL)
    source = qkv + token * qkv_stride + heads * HEAD_DIM + columns
    first = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=mask, other=0.0).to(tl.float32)
    plain_first, plain_second = first, second
    if NORMS:
        rate = tl.rsqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / HEAD_DIM + eps)[:, None]
        first = _norm_half(first, rate, scale_first, dtype)
        second = _norm_half(second, rate, scale_second, dtype)
    angle = token * cos_stride + columns
    cos_first = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    cos_second = tl.load(cos + angle + half, mask=inside, other=0.0).to(tl.float32)
    angle = token * sin_stride + columns
    sin_first = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    sin_second = tl.load(sin + angle + half, mask=inside, other=0.0).to(tl.float32)
    # Each product rounds by itself, as the reference's does.
    turned_first = _rounded(first * cos_first, dtype) - _rounded(second * sin_first, dtype)
    turned_second = _rounded(second * cos_second, dtype) + _rounded(first * sin_second, dtype)
    turned_first = tl.where(is_value, plain_first, turned_first).to(dtype)
    turned_second = tl.where(is_value, plain_second, turned_second).to(dtype)
    is_turned = mask & (heads < HEADS + KV_HEADS)
    tl.store(source, turned_first, mask=is_turned)
    tl.store(source + half, turned_second, mask=is_turned)

    slot = tl.load(slots + token).to(tl.int64)
    page, place = slot // PAGE, slot % PAGE
    goes_to = keys + page * keys_page + place * keys_token + (heads - HEADS) * keys_head + columns
    is_written = is_key & inside & (slot >= 0)
    tl.store(goes_to, turned_first.to(keys.dtype.element_ty), mask=is_written)
    tl.store(goes_to + half, turned_second.to(keys.dtype.element_ty), mask=is_written)
    goes_to = values + page * values_page + place * values_token + (heads - HEADS - KV_HEADS) * values_head + columns
    is_written = is_value & inside & (slot >= 0)
    tl.store(goes_to, turned_first.to(values.dtype.element_ty), mask=is_written)
    tl.store(goes_to + half, turned_second.to(values.dtype.element_ty), mask=is_written)


def takes(qkv: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether the kernel takes these: rows of qkv and of the pool are dense, and the device has the pool's type."""
    dense = qkv.stride(1) == keys.stride(3) == values.stride(3) == 1
    is_known = qkv.dtype in FLOATS and (keys.dtype in FLOATS or (keys.dtype == FLOAT8 and has_float8(keys)))
    return runs_here(qkv) and is_known and keys.shape[3] % 2 == 0 and dense


def rotary_write(
    qkv: Tensor,
    heads: int,
    norms: tuple[Tensor, Tensor, float] | None,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `Kernels.rotary_write`, in place in `qkv`; the results are views of it.

    qkv, cos and sin may have strided rows, keys and values any strides but the last; a negative slot isn't written.
    """
    kv_heads, head_dim = keys.shape[2], keys.shape[3]
    tokens, total = qkv.shape[0], heads + 2 * kv_heads
    q_norm, k_norm, eps = norms or (qkv, qkv, 0.0)
    # Few tokens: more programs. Many: fewer and larger ones.
    group = min(4 if tokens <= 16 else 16, triton.next_power_of_2(total))
    if tokens:
        _rotary_write[(tokens, triton.cdiv(total, group))](
            qkv, q_norm, k_norm, cos, sin, keys, values, slots,
            qkv.stride(0), cos.stride(0), sin.stride(0), *keys.stride()[:3], *values.stride()[:3], eps,
            HEADS=heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim, HALF=triton.next_power_of_2(head_dim // 2),
            GROUP=group, PAGE=keys.shape[1], NORMS=norms is not None,
            num_warps=1 if tokens <= 16 else 4, **overlap(qkv),
        )  # fmt: skip
    return qkv.unflatten(1, (-1, head_dim)).split((heads, kv_heads, kv_heads), dim=1)  # type: ignore[return-value]
