"""Computes step plans with a model: rows to a flat batch, forward pass, logits of the rows that sample."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgcore.api import (
    AttentionBackend,
    Build,
    CacheSpec,
    Model,
    Pending,
    Platform,
    QuantScheme,
    Runner,
    StartReport,
)
from sgcore.cache.pool import KVPool
from sgcore.cache.rows import scale_bytes
from sgcore.engine.messages import SamplingParams
from sgcore.errors import DeviceLost, LaunchError
from sgcore.layers.attention import Attention
from sgcore.layers.linear import product_weights
from sgcore.plugins.plan import Plan
from sgcore.runner.batch import ForwardBatch, StaticSize
from sgcore.runner.build import build_batch, chunk_tokens, last_places, padded_rows
from sgcore.runner.graphs import StepGraphs
from sgcore.runner.inputs import StepInputs
from sgcore.runner.launched import LaunchedStep
from sgcore.runner.prompt_logprobs import PromptLogprobs, prompt_logprobs
from sgcore.runner.readback import Arrival, Logprobs
from sgcore.runner.rows import Rows, sampling_rows
from sgcore.runner.sampler import Sampler
from sgcore.runner.state import DeviceState
from sgcore.runner.work import Computed, Work
from sgcore.scheduler.step import ChunkPlan, RowStart, StepPlan
from sgcore.weights.kept import kept_layers
from sgcore.weights.loader import load_weights

INPUT_BYTES, INPUT_TOKEN_BYTES, INPUT_PAGE_BYTES = 4 << 20, 64, 16
"""Room for a step's arrays: work lists and logit edits, each token's, each page table entry's."""


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
        ahead = plan.options.get("run_ahead")
        self.run_ahead = platform.run_ahead if ahead is None else int(ahead)
        self._pages = 0
        self._is_settled = False
        self._prompt_wants: dict[int, tuple[int, int, tuple[int, ...]]] = {}

    @property
    def pages(self) -> int:
        return self._pages

    # -- start ---------------------------------------------------------------------------------------------------

    def load(self, report: StartReport) -> None:
        self.device = self.platform.initialise(0)
        self.dtype: torch.dtype = getattr(torch, self.plan.dtype)
        self.cache_dtype = self._cache_dtype()
        before = self.platform.memory()
        began = time.perf_counter()
        self.model = self._build()
        source = self.plan.source.load()(self.plan.path)
        seed = int(self.plan.options["random_seed"])
        is_stored = bool(self.plan.hf_config.get("quantization_config"))
        kept = kept_layers(self.plan, source, self.build)
        load_weights(
            self.model, source, self.device, self.dtype, seed, scheme=self.scheme, is_stored=is_stored, kept=kept
        )
        self.platform.weights_loaded(product_weights(self.model))
        report.add("weights", f"{self._weight_bytes() / 2**20:,.0f} MiB in {time.perf_counter() - began:.1f} s")
        self._allocate(before.total, report)

    def _build(self) -> Model:
        self.scheme: QuantScheme | None = None
        if self.plan.quantization is not None:
            config = self.plan.hf_config.get("quantization_config") or {}
            self.scheme = self.plan.quantization.load().from_config(config)
        driver: type[Model] = self.plan.model.load()
        self.build = Build(self.kernels, self.dtype, self.device, self.scheme, packed=driver.packed)
        try:
            model: Any = driver(self.plan.hf_config, self.build)
        except (MemoryError, RuntimeError) as error:  # torch has no type of its own for the host's memory
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise
            raise LaunchError(
                f"there is no memory for the model's parameters: {str(error).strip().splitlines()[0]}",
                "take a larger device or a quantised checkpoint; are the sizes in config.json right?",
            ) from error
        return model.eval()  # type: ignore[no-any-return]

    def _weight_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def _allocate(self, total: int, report: StartReport) -> None:
        """Size the pool by what is left, allocate it, and give each attention layer its backend."""
        spec: CacheSpec = self.model.cache_spec()
        page_bytes = spec.token_bytes(self.cache_dtype.itemsize, scale_bytes(self.cache_dtype)) * self.page_tokens
        activations = self._activation_bytes()
        share = float(self.plan.options.get("mem_fraction_static") or self.platform.memory_share)
        free = self.platform.memory().free
        room = int(min(total * share - self._weight_bytes(), free * share)) - activations
        tokens = self._pool_tokens(max(room, 0) // page_bytes * self.page_tokens, page_bytes // self.page_tokens)
        self._pages = tokens // self.page_tokens + 1
        self.pool = KVPool(spec, self._pages, self.page_tokens, self.cache_dtype, self.device)
        attention = self.backend_type(self.pool, self.kernels)
        for module in self.model.modules():
            if isinstance(module, Attention):
                module.backend = attention
        self.attention = attention
        self._create_state()
        report.add("KV cache", f"{self._pages * page_bytes / 2**20:,.0f} MiB, {tokens:,} tokens")
        report.add("activations", f"{activations / 2**20:,.0f} MiB at most")
        report.add("memory left", f"{self.platform.memory().free / 2**20:,.0f} MiB of {total / 2**20:,.0f}")

    def _cache_dtype(self) -> torch.dtype:
        """Of keys and values; raises `LaunchError` where the backend can't read it."""
        asked, known = str(self.plan.options["kv_cache_dtype"]), self.backend_type.cache_dtypes
        if asked == "auto":
            return self.dtype
        if asked not in known:
            name = self.plan.attention.name
            raise LaunchError(
                f"--kv-cache-dtype {asked}: the attention backend {name} has none of that type",
                f"one of {', '.join(('auto', *known))}",
            )
        return getattr(torch, known[asked])  # type: ignore[no-any-return]

    def _create_state(self) -> None:
        """What a step reads and changes, sized for the most rows and the longest context."""
        options = self.plan.options
        rows, tokens = int(options["max_running_requests"]), int(options["chunked_prefill_size"])
        self.rows = Rows(rows, self.plan.context_tokens, self.page_tokens)
        self.state = DeviceState(self.rows, self.device)
        self.sampler = Sampler(self.kernels, self.vocab_size, self.device)
        input_bytes = INPUT_BYTES + INPUT_TOKEN_BYTES * (tokens + rows) + INPUT_PAGE_BYTES * self.rows.page_table.size
        can_capture = self.platform.can_capture and self.attention.can_capture and not options["enforce_eager"]
        self.inputs = StepInputs(self.device, input_bytes, self.run_ahead + 2, is_static=can_capture)
        most = max(rows, int(options["graph_tokens"] or 0)) if can_capture else 0
        mixed: int | None = int(options["mixed_chunk_size"] or 0)
        if (few := self.platform.graph_rows) is not None:
            rows, most, mixed = min(rows, few), min(most, few), None
        self.graphs: StepGraphs[Computed] = StepGraphs(self.platform, rows, most, mixed)

    def _activation_bytes(self) -> int:
        """The largest step: the gated MLP's and the residuals' tokens, and float32 logits of every row."""
        config, options = self.plan.hf_config, self.plan.options
        width = 3 * int(config.get("intermediate_size") or 4 * config["hidden_size"]) + 6 * int(config["hidden_size"])
        rows = int(options["max_running_requests"])
        tokens = int(options["chunked_prefill_size"]) + rows
        return tokens * width * self.dtype.itemsize + 2 * rows * self.vocab_size * 4

    def _pool_tokens(self, room: int, token_bytes: int) -> int:
        """Asked for, or all there is room for, but no more than the platform wants or all rows could use."""
        asked, fewest = self.plan.options.get("max_total_tokens"), 2 * self.page_tokens
        useful = max(fewest, int(self.plan.options["max_running_requests"]) * self.plan.context_tokens)
        if self.platform.cache_bytes is not None and not self.plan.options.get("mem_fraction_static"):
            useful = min(useful, max(fewest, self.plan.context_tokens, self.platform.cache_bytes // token_bytes))
        if asked is not None and int(asked) < fewest:
            raise LaunchError(f"--max-total-tokens {asked} is less than two pages", f"at least {fewest}")
        tokens = int(asked or min(room, useful)) // self.page_tokens * self.page_tokens
        if tokens > room or room < fewest:
            raise LaunchError(
                f"the KV cache would need {max(tokens, fewest):,} tokens; there is memory for {room:,}",
                "free memory, raise --mem-fraction-static or lower --max-total-tokens",
            )
        return tokens

    # -- a step --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def launch(self, step: StepPlan) -> Pending:
        self._settle()
        self.inputs.begin()
        self._apply(step)
        work = self._prepare(step, self._size(step))
        changes, copies = self.state.put(step, self.inputs), self._put_copies(step)
        self.inputs.send()
        if changes is not None:
            self.state.apply(changes)
        if copies is not None:
            for pool in self.pool.tensors():
                self.kernels.copy_pages(pool, *copies)
        return self._read_back(step, work, self._compute(work))

    def recover(self) -> None:
        try:
            Arrival(self.device).wait()
        except RuntimeError as error:
            raise DeviceLost(f"the device failed: {error}") from error

    def _settle(self) -> None:
        self._is_settled = self._is_settled or not self.platform.settle()

    def _apply(self, step: StepPlan) -> None:
        for row in step.left:
            self._prompt_wants.pop(row, None)
        self.rows.apply(step)
        for start in step.joined:
            self.sampler.join(start)
            self._prompt_wants.pop(start.row, None)
            if start.logprob_start >= 0 and start.top_logprobs >= 0:
                ids = start.sampling.logprob_token_ids
                self._prompt_wants[start.row] = (start.logprob_start, start.top_logprobs, ids)

    @torch.inference_mode()
    def warm_up(self) -> bool:
        """Settle, then compile and capture the next size of step, on padding's row."""
        self._settle()
        if not self._is_settled:
            return True
        awaited = self.graphs.next_awaited()
        if awaited is None:
            return False
        size, draws = awaited
        row = self.rows.scratch
        sampling = SamplingParams(temperature=1.0 if draws else 0.0)
        self.sampler.join(RowStart(row, [0], 1, 0, [], sampling, [], -1, -1))
        step = StepPlan(0, decode=[row] if size.decode_rows else [])
        if size.chunk_tokens:
            step.chunks = [ChunkPlan(row, 0, min(size.chunk_tokens, self.plan.context_tokens), True)]
        for _ in range(2):
            self.inputs.begin()
            work = self._prepare(step, size)
            self.inputs.send()
            self._compute(work)
            Arrival(self.device).wait()
            self.rows.computed[row] = self.rows.known[row] = 0
        return True

    def _size(self, step: StepPlan) -> StaticSize | None:
        """Of the graph that computes the step; one that gives logprobs of a prompt has none."""
        wants_prompt = any(chunk.row in self._prompt_wants for chunk in step.chunks)
        return self.graphs.size(step) if self._is_settled and not wants_prompt else None

    def _prepare(self, step: StepPlan, size: StaticSize | None) -> Work:
        """The host's part: everything that a step needs is put into its inputs."""
        put, rows = self.inputs.put, sampling_rows(step)
        batch = build_batch(step, self.rows, self.state.pages, self.inputs, size)
        variant = self.attention.variant(batch) if size else None
        self.attention.plan(batch)
        decode_rows = put(padded_rows(step.decode, size and size.decode_rows, self.rows))
        sampling = put(padded_rows(rows, size and size.sampling_rows, self.rows))
        # Before what sampling puts, whose sizes a graph that ends at the logits does not know.
        chunk_ids = put(chunk_tokens(step, self.rows, size)) if step.chunks else None
        places = put(last_places(step, batch)) if step.chunks else None
        capacity = size and size.sampling_rows
        sampling_plan = self.sampler.plan(rows, self.inputs, capacity, step.masked) if rows else None
        work = Work(batch, decode_rows, sampling, sampling_plan, chunk_ids=chunk_ids, last_places=places)
        if step.chunks:
            work.prompts = self._prompt_targets(step, batch)
        if size is not None:
            work.key = (size, "none" if work.sampling is None else work.sampling.mode, variant)
        self.rows.advance(step)
        return work

    def _put_copies(self, step: StepPlan) -> tuple[Tensor, Tensor] | None:
        if not step.copies:
            return None
        source, target = np.array(step.copies, np.int64).T
        return self.inputs.put(source), self.inputs.put(target)

    def _compute(self, work: Work) -> Computed:
        if work.key is None:
            return self._forward(work)
        return self.graphs.run(work.key, lambda: self._forward(work))

    def _forward(self, work: Work) -> Computed:
        ids = self.state.newest[work.decode_rows]
        work.batch.input_ids = ids if work.chunk_ids is None else torch.cat((ids, work.chunk_ids))
        work.batch.picks = None if work.prompts else work.last_places
        hidden = self.model.forward(work.batch)
        computed = Computed(hidden if work.prompts else None)
        if work.sampling is not None:
            if work.prompts:
                work.batch.picks = work.last_places
            logits = self.model.logits(*work.batch.pick(hidden))
            if work.sampling.mode is None:
                computed.logits = logits
            else:
                computed.tokens = self.choose(logits, work)
        return computed

    def choose(self, logits: Tensor, work: Work, masks: Tensor | None = None) -> Tensor:
        """Sample, and leave the tokens where the next step reads them."""
        assert work.sampling is not None
        tokens = self.sampler.choose(logits, work.sampling, masks)
        self.state.newest.index_copy_(0, work.sampling_rows, tokens.clamp(min=0))
        return tokens

    def _read_back(self, step: StepPlan, work: Work, computed: Computed) -> Pending:
        """Ask for what the host wants of a step; the call that it returns waits for it."""
        launched = LaunchedStep(self, step, work, computed)
        if not step.masked:
            launched.read_back()
        return launched

    def prompt_logprobs(self, work: Work, hidden: Tensor | None) -> list[Logprobs]:
        if hidden is None:
            return []
        return [wanted.logprobs(self.model, self.kernels, hidden).to_host() for _, wanted in work.prompts]

    def _prompt_targets(self, step: StepPlan, batch: ForwardBatch) -> list[tuple[int, PromptLogprobs]]:
        found = []
        for chunk, begin in zip(step.chunks, batch.starts[batch.decode_rows :].tolist(), strict=True):
            if chunk.row in self._prompt_wants:
                wants = self._prompt_wants[chunk.row]
                found.append((chunk.row, prompt_logprobs(chunk, begin, self.rows, *wants, self.inputs)))
        return found
