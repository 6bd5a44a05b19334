"""Computes step plans with a model: rows to a flat batch, forward pass, logits of the rows that sample."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgcore.api import AttentionBackend, Build, CacheSpec, Model, Platform, Runner, StartReport
from sgcore.cache.pool import KVPool
from sgcore.engine.messages import TokenLogprobs
from sgcore.errors import LaunchError
from sgcore.layers.attention import Attention
from sgcore.layers.linear import Embedding, Linear
from sgcore.plugins.plan import Plan
from sgcore.runner.batch import ForwardBatch
from sgcore.runner.rows import Rows, sampling_rows
from sgcore.runner.sampler import Sampler, token_logprobs
from sgcore.scheduler.step import ChunkPlan, StepPlan, StepResult
from sgcore.weights.loader import load_weights


class ModelRunner(Runner):
    """One device, one model, one pool."""

    model: Any

    def __init__(self, plan: Plan, platform: Platform) -> None:
        self.plan, self.platform = plan, platform
        self.kernels = platform.kernels()
        backend: type[AttentionBackend] = plan.attention.load()
        self.backend_type = backend
        self.page_tokens = int(plan.options.get("page_size") or backend.layout.page_tokens)
        self.vocab_size = int(plan.hf_config["vocab_size"])
        self._pages = 0
        self._prompt_wants: dict[int, tuple[int, int]] = {}

    @property
    def pages(self) -> int:
        return self._pages

    # -- start ---------------------------------------------------------------------------------------------------

    def load(self, report: StartReport) -> None:
        self.device = self.platform.initialise(0)
        self.dtype: torch.dtype = getattr(torch, self.plan.dtype)
        before = self.platform.memory()
        began = time.perf_counter()
        self.model = self._build()
        source = self.plan.source.load()(self.plan.path)
        load_weights(self.model, source, self.device, self.dtype, int(self.plan.options["random_seed"]))
        for module in self.model.modules():
            if isinstance(module, Linear | Embedding):
                module.finish()
        report.add("weights", f"{self._weight_bytes() / 2**20:,.0f} MiB in {time.perf_counter() - began:.1f} s")
        self._allocate(before.total, report)

    def _build(self) -> Model:
        scheme = None
        if self.plan.quantization is not None:
            config = self.plan.hf_config.get("quantization_config") or {}
            scheme = self.plan.quantization.load().from_config(config)
        build = Build(self.kernels, self.dtype, self.device, scheme)
        model: Any = self.plan.model.load()(self.plan.hf_config, build)
        return model.eval()  # type: ignore[no-any-return]

    def _weight_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def _allocate(self, total: int, report: StartReport) -> None:
        """Size the pool by what is left, allocate it, and give each attention layer its backend."""
        spec: CacheSpec = self.model.cache_spec()
        page_bytes = spec.token_bytes(self.dtype.itemsize) * self.page_tokens
        activations = self._activation_bytes()
        share = float(self.plan.options.get("mem_fraction_static") or self.platform.memory_share)
        free = self.platform.memory().free
        room = int(min(total * share - self._weight_bytes(), free * share)) - activations
        tokens = self._pool_tokens(max(room, 0) // page_bytes * self.page_tokens)
        self._pages = tokens // self.page_tokens + 1
        self.pool = KVPool(spec, self._pages, self.page_tokens, self.dtype, self.device)
        attention = self.backend_type(self.pool, self.kernels)
        for module in self.model.modules():
            if isinstance(module, Attention):
                module.backend = attention
        self.attention = attention
        rows = int(self.plan.options["max_running_requests"])
        self.rows = Rows(rows, self.plan.context_tokens, self.page_tokens)
        self.sampler = Sampler(self.kernels, self.vocab_size, self.device)
        report.add("KV cache", f"{self._pages * page_bytes / 2**20:,.0f} MiB, {tokens:,} tokens")
        report.add("activations", f"{activations / 2**20:,.0f} MiB at most")
        report.add("memory left", f"{self.platform.memory().free / 2**20:,.0f} MiB of {total / 2**20:,.0f}")

    def _activation_bytes(self) -> int:
        """The largest step: the gated MLP's and the residuals' tokens, and float32 logits of every row."""
        config, options = self.plan.hf_config, self.plan.options
        width = 3 * int(config.get("intermediate_size") or 4 * config["hidden_size"]) + 6 * int(config["hidden_size"])
        rows = int(options["max_running_requests"])
        tokens = int(options["chunked_prefill_size"]) + rows
        return tokens * width * self.dtype.itemsize + 2 * rows * self.vocab_size * 4

    def _pool_tokens(self, room: int) -> int:
        """Asked for, or all there is room for, but no more than every row at the longest context could use."""
        useful = int(self.plan.options["max_running_requests"]) * self.plan.context_tokens
        tokens = (
            int(self.plan.options.get("max_total_tokens") or min(room, useful)) // self.page_tokens * self.page_tokens
        )
        if tokens > room or tokens < 2 * self.page_tokens:
            raise LaunchError(
                f"the KV cache would need {max(tokens, 2 * self.page_tokens):,} tokens; there is memory for {room:,}",
                "free memory, raise --mem-fraction-static or lower --max-total-tokens",
            )
        return tokens

    # -- a step --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def execute(self, step: StepPlan) -> StepResult:
        self._apply(step)
        batch = self._batch(step)
        self.attention.plan(batch)
        hidden = self.model.forward(batch)
        rows = sampling_rows(step)
        prompt_logprobs = self._prompt_logprobs(step, hidden) if self._prompt_wants else {}
        result = StepResult([], {}, prompt_logprobs)
        if rows:
            logits = self.model.logits(hidden[self._last_places(step)])
            result.tokens, result.logprobs = self.sampler.sample(logits, rows)
        self.rows.advance(step, result)
        return result

    def _apply(self, step: StepPlan) -> None:
        for row in step.left:
            self._prompt_wants.pop(row, None)
        self.rows.apply(step)
        for start in step.joined:
            self.sampler.join(start)
            if start.logprob_start >= 0 and start.top_logprobs >= 0:
                self._prompt_wants[start.row] = (start.logprob_start, start.top_logprobs)
        if step.copies:
            source, target = torch.tensor(step.copies, device=self.device).unbind(1)
            for pool in self.pool.tensors():
                self.kernels.copy_pages(pool, source, target)

    def _batch(self, step: StepPlan) -> ForwardBatch:
        """Decode rows first, then chunks, as flat arrays."""
        state = self.rows
        rows = np.array(step.decode + [chunk.row for chunk in step.chunks], np.int64)
        counts = np.array([1] * len(step.decode) + [chunk.count for chunk in step.chunks], np.int64)
        begins = state.computed[rows]
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        flat_rows = np.repeat(rows, counts)
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1] - begins, counts)
        pages = state.page_table[flat_rows, positions // self.page_tokens].astype(np.int64)
        slots = pages * self.page_tokens + positions % self.page_tokens
        ids = state.tokens[flat_rows, positions].astype(np.int64)
        lengths = begins + counts
        table = state.page_table[rows, : int(lengths.max()) // self.page_tokens + 1]
        input_ids, places, targets = (torch.from_numpy(x).to(self.device) for x in (ids, positions, slots))
        return ForwardBatch(input_ids, places, targets, len(step.decode), starts, lengths, table)

    def _last_places(self, step: StepPlan) -> Tensor:
        """Where the hidden state of each sampling row's last token stands in the batch."""
        places = list(range(len(step.decode)))
        end = len(step.decode)
        for chunk in step.chunks:
            end += chunk.count
            if chunk.is_last:
                places.append(end - 1)
        return torch.tensor(places, device=self.device)

    def _prompt_logprobs(self, step: StepPlan, hidden: Tensor) -> dict[int, list[TokenLogprobs]]:
        found = {}
        begin = len(step.decode)
        for chunk in step.chunks:
            if chunk.row in self._prompt_wants:
                found[chunk.row] = self._chunk_logprobs(chunk, hidden[begin : begin + chunk.count])
            begin += chunk.count
        return found

    def _chunk_logprobs(self, chunk: ChunkPlan, hidden: Tensor) -> list[TokenLogprobs]:
        """Entries of prompt positions [start, ...] that this chunk's hidden states predict."""
        wanted, top = self._prompt_wants[chunk.row]
        tokens = self.rows.tokens[chunk.row, : self.rows.known[chunk.row]].astype(np.int64)
        entries = [TokenLogprobs(int(tokens[0]), None)] if chunk.start == 0 and wanted == 0 else []
        first = max(chunk.start + 1, wanted)
        last = min(chunk.start + chunk.count + 1, len(tokens))
        if first < last:
            logits = self.model.logits(hidden[first - 1 - chunk.start : last - 1 - chunk.start])
            targets = torch.from_numpy(tokens[first:last]).to(logits.device)
            entries += token_logprobs(self.kernels, logits, targets, [top] * (last - first))
        return entries
