"""The reference implementation of every operation, in plain torch.

A device derives from `Kernels` and overrides what it does better; the conformance suite tests each override
against this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sgcore import noise
from sgcore.cache.rows import narrowed

FLOAT8 = torch.float8_e4m3fn
FLOAT8_MOST = 448.0
"""The largest number of `FLOAT8`."""
LEAST_SCALE = 1e-12
"""So that a row of zeros can be divided by its scale."""
PACK_BLOCK = 32
"""Input features of 4 bits that `pack_int` packs together."""
NO_TOKEN = -1
"""Stands for the token of a row whose logits are broken."""

Block = tuple[int, int]
"""Rows and columns of a weight that share a scale."""


class Kernels:
    """Operations on contiguous tensors; nothing here keeps state."""

    integer_error: float = 0.0
    """Of a product with integers, relative to the largest result; above 0 where inputs are rounded."""

    def for_rounded_weights(self) -> Kernels:
        """Those of layers whose weights sgcore rounds to integers itself: they may round inputs as coarsely."""
        return self

    def pack(self, weight: Tensor) -> Tensor:
        """The weight (out, in) in the layout that `linear` reads fastest; called once, after loading."""
        return weight

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(tokens, in) x (out, in) -> (tokens, out); `weight` as it is or as `pack` returned it."""
        return F.linear(x, weight, bias)

    def quantize_fp8(self, x: Tensor, scale: Tensor | None = None, group: int | None = None) -> tuple[Tensor, Tensor]:
        """x (tokens, in) as `FLOAT8`, and the float32 scales that it has to be multiplied with to be x again.

        One scale for all, `scale` (1,), or the largest magnitude of each token (tokens, 1), or of every `group`
        features of each token (tokens, groups), divided by `FLOAT8_MOST`.
        """
        wide = x.float()
        size = group or x.shape[1]
        groups = F.pad(wide, (0, -x.shape[1] % size)).view(len(x), -1, size)
        scales = (groups.abs().amax(-1) / FLOAT8_MOST).clamp(min=LEAST_SCALE) if scale is None else scale.view(1, 1)
        quantised = (groups / scales.unsqueeze(-1)).clamp(-FLOAT8_MOST, FLOAT8_MOST).flatten(1)[:, : x.shape[1]]
        return quantised.to(FLOAT8), scales

    def add_norm_fp8(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm: Tensor,
        eps: float,
        scale: Tensor | None = None,
        group: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`quantize_fp8` of the normed sum `x + residual`, and the sum, as in `add_norm`."""
        normed, total = self.add_norm(x, residual, norm, eps)
        return *self.quantize_fp8(normed, scale, group), total

    def linear_fp8(
        self,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        block: Block | None = None,
        input_scale: Tensor | None = None,
    ) -> Tensor:
        """`product_fp8` with x (tokens, in) rounded by `quantize_fp8`: with `input_scale` (1,), by groups of a block's
        columns, or by token. An override may leave x as it is where that is faster.
        """
        quantised, rates = self.quantize_fp8(x, input_scale, None if block is None else block[1])
        return self.product_fp8(quantised, rates, weight, scale, x.dtype, bias, block)

    def add_norm_linear_fp8(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm: Tensor,
        eps: float,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        block: Block | None = None,
        input_scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`linear_fp8` of the normed sum `x + residual`, and the sum, as in `add_norm`."""
        group = None if block is None else block[1]
        rounded, rates, total = self.add_norm_fp8(x, residual, norm, eps, input_scale, group)
        return self.product_fp8(rounded, rates, weight, scale, x.dtype, bias, block), total

    def add_norm_gated_fp8(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm: Tensor,
        eps: float,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        block: Block | None = None,
        input_scale: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`silu_mul` of `add_norm_linear_fp8`, and the sum."""
        group = None if block is None else block[1]
        rounded, rates, total = self.add_norm_fp8(x, residual, norm, eps, input_scale, group)
        return self.gated_fp8(rounded, rates, weight, scale, x.dtype, bias, block), total

    def product_fp8(
        self,
        x: Tensor,
        rates: Tensor,
        weight: Tensor,
        scale: Tensor,
        dtype: torch.dtype,
        bias: Tensor | None = None,
        block: Block | None = None,
    ) -> Tensor:
        """`linear` of numbers of 8 bits on both sides, summed in float32: (tokens, in) -> (tokens, out) in `dtype`.

        x and rates as `quantize_fp8` returned them. weight (out, in) `FLOAT8`; scale (out,) float32 or, with `block`,
        one number for each block of so many rows and columns (rounded up).
        """
        rows, columns = block or (1, weight.shape[1])
        wide = x.float() * expand(rates, 1, columns, x.shape)
        own = None if bias is None else bias.float()
        return F.linear(wide, self.widen_fp8(weight, scale, (rows, columns)), own).to(dtype)

    def gated_fp8(
        self,
        x: Tensor,
        rates: Tensor,
        weight: Tensor,
        scale: Tensor,
        dtype: torch.dtype,
        bias: Tensor | None = None,
        block: Block | None = None,
    ) -> Tensor:
        """`silu_mul` of `product_fp8`."""
        return self.silu_mul(self.product_fp8(x, rates, weight, scale, dtype, bias, block))

    def widen_fp8(self, weight: Tensor, scale: Tensor, block: Block) -> Tensor:
        """The weight of `linear_fp8` in float32."""
        return weight.float() * expand(scale.view(len(scale), -1), *block, weight.shape)

    def pack_int(self, values: Tensor, bits: int) -> Tensor:
        """Unsigned integers (out, in) uint8 of 4 or 8 bits in the layout that `linear_int` reads, (out, bytes).

        `in` is a multiple of `PACK_BLOCK`, with 8 bits of half of that. Packed weights may be concatenated, and taken
        apart again. Here, with 4 bits, byte i of every 16 has the features i (low half) and i + 16 of 32.
        """
        if bits == 8:
            return values
        low, high = values.reshape(len(values), -1, 2, PACK_BLOCK // 2).unbind(2)
        return (low | high << 4).flatten(1)

    def pack_scales(self, scales: Tensor, zeros: Tensor | None, bits: int) -> tuple[Tensor, Tensor | None]:
        """Scales and zeros (out, groups) in the layout that `linear_int` reads; rows are as those of `pack_int`.

        scales of any float type; zeros, what stands for 0, uint8 or, where that is no integer, float32; None for the
        middle of the range.
        Here the scales become the same numbers in two bytes each, if some type has them all; the rows of a group lie
        behind one another in memory.
        """
        narrow = (scales.to(dtype) for dtype in (torch.float16, torch.bfloat16))
        same = next((given for given in narrow if torch.equal(given.to(scales.dtype), scales)), scales)
        return same.T.contiguous().T, None if zeros is None else zeros.T.contiguous().T

    def widen_int(self, weight: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Tensor:
        """The weight of `linear_int` (out, in) in float32."""
        values = weight
        if bits == 4:
            pairs = weight.view(len(weight), -1, PACK_BLOCK // 2)
            values = torch.stack((pairs & 15, pairs >> 4), dim=2).flatten(1)
        size = values.shape[1] // scales.shape[1]
        middle = torch.full_like(scales, 1 << (bits - 1)) if zeros is None else zeros
        centred = values.float().view(len(weight), -1, size) - middle.float().unsqueeze(-1)
        return (centred * scales.float().unsqueeze(-1)).flatten(1)

    def multiplies_packed(self, zeros: Tensor | None, group: int) -> bool:
        """Whether `linear_int` reads a weight with such zeros, and groups of so many input features, as it is, and does
        not widen it in memory each time.
        """
        return False

    def linear_int(
        self,
        x: Tensor,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bits: int,
        bias: Tensor | None = None,
    ) -> Tensor:
        """`linear` with a weight of unsigned integers in groups: (tokens, in) -> (tokens, out).

        weight as `pack_int`, scales and zeros as `pack_scales` returned them. A group is `in / groups` features, a
        multiple of `PACK_BLOCK`, with 8 bits of half of that.
        """
        wide = self.widen_int(weight, scales, zeros, bits)
        return F.linear(x.float(), wide, None if bias is None else bias.float()).to(x.dtype)

    def gated_int(
        self,
        x: Tensor,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bits: int,
        bias: Tensor | None = None,
    ) -> Tensor:
        """`silu_mul` of `linear_int`."""
        return self.silu_mul(self.linear_int(x, weight, scales, zeros, bits, bias))

    def add_norm_linear_int(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm: Tensor,
        eps: float,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bits: int,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`linear_int` of the normed sum `x + residual`, and the sum, as in `add_norm`."""
        normed, total = self.add_norm(x, residual, norm, eps)
        return self.linear_int(normed, weight, scales, zeros, bits, bias), total

    def add_norm_gated_int(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm: Tensor,
        eps: float,
        weight: Tensor,
        scales: Tensor,
        zeros: Tensor | None,
        bits: int,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`silu_mul` of `add_norm_linear_int`, and the sum."""
        normed, total = self.add_norm(x, residual, norm, eps)
        return self.gated_int(normed, weight, scales, zeros, bits, bias), total

    def embedding(self, ids: Tensor, weight: Tensor) -> Tensor:
        """(tokens,) int64 -> (tokens, hidden)."""
        return F.embedding(ids, weight)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Root-mean-square norm over the last dimension, accumulated in float32 (arXiv 1910.07467)."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return weight * wide.to(x.dtype)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """`x + residual`, normed, and the sum itself as the next residual."""
        total = x + residual
        return self.rms_norm(total, weight, eps), total

    def add_norm(self, x: Tensor, residual: Tensor | None, norm: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """`add_rms_norm`; the first layer has no residual yet, and the sum is `x`."""
        return (self.rms_norm(x, norm, eps), x) if residual is None else self.add_rms_norm(x, residual, norm, eps)

    def add_norm_linear(
        self, x: Tensor, residual: Tensor | None, norm: Tensor, eps: float, weight: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`linear` of the normed sum `x + residual`, and the sum; without a residual the sum is `x`.

        x, residual (tokens, in); norm (in,); weight as in `linear`.
        """
        normed, total = self.add_norm(x, residual, norm, eps)
        return self.linear(normed, weight, bias), total

    def add_norm_gated(
        self, x: Tensor, residual: Tensor | None, norm: Tensor, eps: float, weight: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`silu_mul` of `add_norm_linear`, and the sum; `weight` has the gate's rows first, then as many of `up`."""
        both, total = self.add_norm_linear(x, residual, norm, eps, weight, bias)
        return self.silu_mul(both), total

    def silu_mul(self, x: Tensor) -> Tensor:
        """(tokens, 2 n) -> (tokens, n): silu of the first half times the second."""
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    def rope(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate halves of q and k (tokens, heads, head_dim); cos, sin (tokens, 1, head_dim): arXiv 2104.09864."""
        return self._rotate(q, cos, sin), self._rotate(k, cos, sin)

    @staticmethod
    def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    def write_kv(self, keys: Tensor, values: Tensor, k: Tensor, v: Tensor, slots: Tensor) -> None:
        """Store k, v (tokens, kv_heads, head_dim) at `slots` (tokens,) of pool tensors (pages, page_tokens, ...).

        They are rounded to the pool's type as in `sgcore.cache.rows.narrowed`.
        """
        keys.flatten(0, 1)[slots] = narrowed(k, keys.dtype)
        values.flatten(0, 1)[slots] = narrowed(v, values.dtype)

    def rotary_write(
        self,
        qkv: Tensor,
        heads: int,
        norms: tuple[Tensor, Tensor, float] | None,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split a fused projection, norm the heads of q and k where the model does, rotate them, store k and v.

        qkv (tokens, (heads + 2 kv_heads) * head_dim), which may be overwritten; `norms` are the weights (head_dim,) of
        q and k and their eps; cos, sin as in `rope`; keys, values, slots as in `write_kv`. Returns q (tokens, heads,
        head_dim), k and v (tokens, kv_heads, head_dim), which may be views of `qkv`.
        """
        kv_heads = keys.shape[2]
        head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
        q, k, v = torch.split(qkv.view(len(qkv), -1, head_dim), [heads, kv_heads, kv_heads], dim=1)
        if norms is not None:
            q, k = self.rms_norm(q, norms[0], norms[2]), self.rms_norm(k, norms[1], norms[2])
        q, k = self.rope(q, k, cos, sin)
        self.write_kv(keys, values, k, v, slots)
        return q, k, v

    def copy_pages(self, pool: Tensor, source: Tensor, target: Tensor) -> None:
        """Copy whole pages of one pool tensor; all reads happen before the writes."""
        pool[target] = pool[source]

    def penalise(
        self,
        logits: Tensor,
        output_counts: Tensor,
        is_seen: Tensor,
        frequency: Tensor,
        presence: Tensor,
        repetition: Tensor,
    ) -> Tensor:
        """Frequency, presence (of outputs) and repetition (of prompt and outputs) penalties.

        logits (rows, vocabulary) float32; counts likewise; the three penalties (rows, 1).
        """
        scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
        logits = torch.where(is_seen, scaled, logits)
        return logits - frequency * output_counts - presence * (output_counts > 0)

    def mask_logits(self, logits: Tensor, rows: Tensor, masks: Tensor) -> Tensor:
        """Set tokens that a mask doesn't allow to -inf, in logits (rows, vocabulary) themselves, which are returned.

        masks (masked, words) int32 are for `rows` (masked,) int64: bit i of word w allows token 32 w + i.
        """
        bits = torch.arange(32, device=masks.device, dtype=torch.int32)
        is_allowed = ((masks[:, :, None] >> bits) & 1).bool().flatten(1)[:, : logits.shape[1]]
        return logits.index_copy_(0, rows, logits[rows].masked_fill(~is_allowed, float("-inf")))

    def greedy(self, logits: Tensor) -> Tensor:
        """(rows, vocabulary) -> (rows,) int64: the most probable token, the lowest id among equals.

        `NO_TOKEN` for a row that `can_be_sampled` refuses.
        """
        return torch.where(can_be_sampled(logits), logits.argmax(-1), NO_TOKEN)

    def sample(
        self, logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, seeds: Tensor, positions: Tensor
    ) -> Tensor:
        """One token for each row, drawn from the filtered distribution: the largest logit after noise (sgcore.noise).

        logits (rows, vocabulary) float32, divided by the temperature already. `top_k` (rows,) int64 with the
        vocabulary's size for off; `top_p`, `min_p` (rows,) float32; `seeds`, `positions` (rows,) int64. Filters apply
        in the order top-k, top-p, min-p. Ties break by token id. `NO_TOKEN` for a row that `can_be_sampled` refuses.
        """
        is_usable = can_be_sampled(logits)
        logits = logits.where(is_usable[:, None], 0.0)
        scores = logits + noise.gumbel(seeds, positions, logits.shape[1])
        kept = self._kept(logits, top_k, top_p, min_p)
        return torch.where(is_usable, scores.masked_fill(~kept, float("-inf")).argmax(-1), NO_TOKEN)

    @staticmethod
    def _kept(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
        """Which tokens the filters leave, (rows, vocabulary) bool."""
        ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
        probs = ordered.softmax(-1)
        rank = torch.arange(probs.shape[-1], device=probs.device)
        probs = probs.masked_fill(rank >= top_k[:, None], 0.0)
        probs = probs / probs.sum(-1, keepdim=True)
        before = probs.cumsum(-1) - probs
        probs = probs.masked_fill((before > top_p[:, None]) & (rank > 0) & (top_p < 1)[:, None], 0.0)
        probs = probs.masked_fill(probs < min_p[:, None] * probs[:, :1], 0.0)
        return torch.zeros_like(probs, dtype=torch.bool).scatter(-1, ids, probs > 0)

    def logprobs(self, logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of `tokens` (rows,), then the `top` most probable ones and their ids, (rows, top) each."""
        log = logits.float().log_softmax(-1)
        values, ids = log.topk(top, dim=-1) if top else (log[:, :0], tokens[:, None][:, :0])
        return log.gather(-1, tokens[:, None]).squeeze(-1), values, ids


def can_be_sampled(logits: Tensor) -> Tensor:
    """Whether the largest logit of each row is finite: (rows, vocabulary) -> (rows,) bool.

    It isn't where any logit is NaN or +inf, or all are -inf.
    """
    return logits.amax(-1).isfinite()


def expand(scale: Tensor, rows: int, columns: int, shape: torch.Size) -> Tensor:
    """One number a block -> one number an entry of a matrix; the last blocks may reach beyond it."""
    wide = scale if rows == 1 or len(scale) == 1 else scale.repeat_interleave(rows, 0)[: shape[0]]
    return wide if columns == 1 or wide.shape[1] == 1 else wide.repeat_interleave(columns, 1)[:, : shape[1]]
