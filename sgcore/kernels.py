"""The reference implementation of every operation, in plain torch.

A device derives from `Kernels` and overrides what it does better; the conformance suite tests each override
against this.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Kernels:
    """Operations on contiguous tensors; nothing here keeps state."""

    def pack(self, weight: Tensor) -> Tensor:
        """The weight (out, in) in the layout that `linear` reads fastest; called once, after loading."""
        return weight

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(tokens, in) x (out, in) -> (tokens, out); `weight` as it is or as `pack` returned it."""
        return F.linear(x, weight, bias)

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
        """Store k, v (tokens, kv_heads, head_dim) at `slots` (tokens,) of pool tensors (pages, page_tokens, ...)."""
        keys.flatten(0, 1)[slots] = k
        values.flatten(0, 1)[slots] = v

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
        kv_heads, head_dim = keys.shape[2], keys.shape[3]
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
        """(rows, vocabulary) -> (rows,) int64: the most probable token, the lowest id among equals."""
        return logits.argmax(-1)

    def sample(self, logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor) -> Tensor:
        """One token for each row, by inverting the filtered distribution at `uniform` (rows,) in [0, 1).

        logits (rows, vocabulary) float32, divided by the temperature already. `top_k` (rows,) int64 with the
        vocabulary's size for off. Filters apply in the order top-k, top-p, min-p. Ties break by token id.
        """
        ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
        probs = ordered.softmax(-1)
        rank = torch.arange(probs.shape[-1], device=probs.device)
        probs = probs.masked_fill(rank >= top_k[:, None], 0.0)
        probs = probs / probs.sum(-1, keepdim=True)
        before = probs.cumsum(-1) - probs
        probs = probs.masked_fill((before > top_p[:, None]) & (rank > 0), 0.0)
        probs = probs.masked_fill(probs < min_p[:, None] * probs[:, :1], 0.0)
        cumulative = probs.cumsum(-1, dtype=torch.float64)
        target = uniform.double()[:, None] * cumulative[:, -1:]
        place = torch.searchsorted(cumulative, target, right=True)
        last = (probs > 0).sum(-1, keepdim=True) - 1
        return ids.gather(-1, torch.minimum(place, last)).squeeze(-1)

    def logprobs(self, logits: Tensor, tokens: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of `tokens` (rows,), then the `top` most probable ones and their ids, (rows, top) each."""
        log = logits.float().log_softmax(-1)
        values, ids = log.topk(top, dim=-1) if top else (log[:, :0], tokens[:, None][:, :0])
        return log.gather(-1, tokens[:, None]).squeeze(-1), values, ids
