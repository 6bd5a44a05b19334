"""Every class that a plugin implements, and nothing else.

A *driver* is found by a name that is already known (an architecture, a flag) and imported only then. This module
imports torch for its annotations alone, so that the launcher can read it without one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from sgcore.lang import Primitive as Primitive
from sgcore.model_config import Rule

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from sgcore.cache.pool import KVPool
    from sgcore.kernels import Kernels
    from sgcore.layers.norm import RMSNorm
    from sgcore.plugins.plan import Plan
    from sgcore.runner.batch import ForwardBatch
    from sgcore.scheduler.step import StepPlan, StepResult

HfConfig = Mapping[str, Any]
"""`config.json` as a read-only mapping, with nested mappings for nested parts."""

Masks: TypeAlias = "npt.NDArray[np.int32]"
"""(rows, words): bit i of word w allows token 32 w + i."""


@dataclass(frozen=True)
class PlatformOffer:
    """A device that is present, found without initialising it."""

    name: str
    """The platform driver's entry point name."""
    description: str
    is_fallback: bool = False
    """True for a platform that is always there; it yields to any other offer."""


@dataclass(frozen=True)
class ModelTraits:
    """What the core may ask of a model before it is built."""

    task: str = "generate"
    attention: str = "full"
    modalities: tuple[str, ...] = ("text",)
    is_moe: bool = False


@dataclass(frozen=True)
class LayerCache:
    """The cache that one attention layer needs. `window` tokens are visible behind each token; None: all of them."""

    kv_heads: int
    head_dim: int
    window: int | None = None


@dataclass(frozen=True)
class CacheSpec:
    """One entry a layer, in the order of `Attention.index`."""

    layers: tuple[LayerCache, ...]

    def token_bytes(self, element_bytes: int, scale_bytes: int = 0) -> int:
        """Bytes that one token takes over all layers: keys and values, each head's with its scale."""
        return sum(2 * layer.kv_heads * (layer.head_dim * element_bytes + scale_bytes) for layer in self.layers)


@dataclass(frozen=True)
class Memory:
    """Device memory in bytes."""

    total: int
    free: int


@dataclass(frozen=True)
class PageLayout:
    """How a backend wants the pool: tokens a page. Tensors are (pages, page_tokens, kv_heads, head_dim).

    Rows of int8 are longer (`sgcore.cache.rows`).
    """

    page_tokens: int = 16


@dataclass(frozen=True)
class Build:
    """What a model's layers need to build themselves. A model passes it on and reads nothing of it but `kernels`."""

    kernels: Kernels
    dtype: torch.dtype
    device: torch.device
    scheme: QuantScheme | None = None
    attention: AttentionBackend | None = None
    packed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """`Model.packed`: what the checkpoint calls the parts of a fused layer."""


class Model(ABC):
    """A model architecture. A driver also derives from `torch.nn.Module`.

    The entry point's name (group `sgcore.models`) is `architectures[0]` of `config.json`.
    """

    packed: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Fused parameter -> the checkpoint's names of its parts: `{"qkv_proj": ("q_proj", "k_proj", "v_proj")}`."""

    keys: ClassVar[Mapping[str, Rule] | None] = None
    """What is read of the configuration, and which values can be served (`sgcore.model_config`). Another value ends the
    start, another key is named in a warning. None: not said, and nothing is checked."""

    @classmethod
    def refusals(cls, hf_config: HfConfig, context_tokens: int) -> Sequence[str]:
        """Reasons beside `keys` why a configuration can't be served, by the key's name. Must not build anything."""
        return ()

    @classmethod
    def traits(cls, hf_config: HfConfig) -> ModelTraits:
        """What this architecture is with this configuration. Must not build anything."""
        return ModelTraits()

    @abstractmethod
    def __init__(self, hf_config: HfConfig, build: Build) -> None:
        """Build the layers with uninitialised parameters on `build.device`."""

    @abstractmethod
    def cache_spec(self) -> CacheSpec:
        """The cache of each attention layer."""

    @abstractmethod
    def forward(self, batch: ForwardBatch) -> Tensor:
        """Hidden states (tokens, hidden) after the final norm, for `batch.input_ids` (tokens,) int64.

        Of the tokens that are read, where the model has left out the others by `batch.pick`.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, hidden) -> (rows, vocabulary)."""

    def rename(self, name: str) -> str | None:
        """The model's parameter name for a checkpoint's tensor name; None: the tensor is not wanted."""
        return name


class AttentionBackend(ABC):
    """Attention over the paged cache (group `sgcore.attention`, name is `--attention-backend`)."""

    layout: ClassVar[PageLayout] = PageLayout()
    cache_dtypes: ClassVar[Mapping[str, str]] = {}
    """Values of `--kv-cache-dtype` beside `auto`, and torch's names of the types of keys and values that they mean."""
    can_capture: bool = False
    """Whether `plan` and `forward` do what they say of static batches; steps are captured only then."""
    pool: KVPool

    @abstractmethod
    def __init__(self, pool: KVPool, kernels: Kernels) -> None: ...

    def variant(self, batch: ForwardBatch) -> Hashable:
        """What a static batch needs beside its size; batches that differ in it are captured apart. Host arrays only."""
        return None

    @abstractmethod
    def plan(self, batch: ForwardBatch) -> None:
        """Host work of a step, once, before the layers: index tensors, masks. Stored on `batch.attention`.

        Host arrays reach the device through `batch.inputs`. For a static batch their sizes depend on
        `batch.size` alone, and their addresses stay: what `forward` launches is captured once and replayed for other
        plans.
        """

    @abstractmethod
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, scale: float, window: int | None, batch: ForwardBatch
    ) -> Tensor:
        """Attend with q (tokens, heads, head_dim); the pool holds this step's k and v already.

        k, v (tokens, kv_heads, head_dim) are what was written, for a backend that can use them as they are. Returns
        (tokens, heads, head_dim). Tokens of a row attend to the row's earlier tokens and themselves.
        """


class Platform(ABC):
    """A kind of device (group `sgcore.platforms`, name is `--platform`)."""

    name: ClassVar[str]
    device_type: ClassVar[str]
    """torch's word for the device."""
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    """What it computes well, best first: the first is the default where a checkpoint's own type is not in the list."""
    default_attention: ClassVar[str]
    memory_share: ClassVar[float] = 0.85
    """Share of the memory for weights and cache, unless `--mem-fraction-static` says otherwise."""
    cache_bytes: ClassVar[int | None] = None
    """Memory for keys and values, or for one request of the longest context if that takes more; None: all of the share.

    It doesn't hold where `--max-total-tokens` or `--mem-fraction-static` says how much.
    """
    run_ahead: ClassVar[int] = 0
    """Steps launched before the result of the one before them is read, unless `--run-ahead` says otherwise."""
    can_capture: ClassVar[bool] = False
    """Whether `capture` works."""
    graph_rows: ClassVar[int | None] = None
    """The most rows of a step that is captured, then only one that decodes, and when it comes; None: as many as run."""

    @abstractmethod
    def initialise(self, rank: int) -> torch.device:
        """Make the device ready in this process: threads, context, streams."""

    def weights_loaded(self, weights: Sequence[Tensor]) -> None:
        """Called once, with what the products of every step read, when all of it is loaded and repacked."""
        return None

    def settle(self) -> bool:
        """Between steps, and where there are none: bring some of the weights to where they are read faster.

        False: they stay where they are from now on. No step is captured before.
        """
        return False

    @abstractmethod
    def memory(self) -> Memory: ...

    @abstractmethod
    def kernels(self) -> Kernels:
        """The device's overrides of the reference kernels."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` launches without running it; the call that it returns launches the same again.

        Tensors stay at their addresses; `work` has run before, so that whatever it compiles is compiled.
        """
        raise RuntimeError(f"platform {self.name} captures nothing")

    def create_runner(self, plan: Plan) -> Runner:
        """The object that computes steps on this device."""
        from sgcore.runner.runner import ModelRunner

        return ModelRunner(plan, self)


class Pending(ABC):
    """A launched step."""

    def sample(self, masks: Masks) -> None:
        """Sample a step that has masked rows: `masks` has a row for each of `StepPlan.masked`.

        Called once, after the results of all earlier steps; the next step is launched after it.
        """
        raise NotImplementedError("this runner samples no masked rows")

    @abstractmethod
    def __call__(self) -> StepResult:
        """Wait for the step and give its result."""


class Runner(ABC):
    """Computes the steps that the scheduler plans."""

    page_tokens: int
    vocab_size: int
    run_ahead: int = 0
    """Steps that are launched before the result of the one before them is read."""

    @abstractmethod
    def load(self, report: StartReport) -> None:
        """Weights on the device, memory measured and the pool allocated; raises `LaunchError` if it can't fit."""

    @property
    @abstractmethod
    def pages(self) -> int:
        """Pages in the pool."""

    def warm_up(self) -> bool:
        """Called while there is nothing to do: prepare one kind of step that may come. False: all are prepared."""
        return False

    @abstractmethod
    def launch(self, step: StepPlan) -> Pending:
        """Start to compute a step. Steps are computed in the order of their launch.

        A step with masked rows is computed up to its logits, and waits for `Pending.sample`. Where this raises, or the
        `Pending` that it returns, what was launched is forgotten, and every row joins anew before it is computed again.
        """

    def recover(self) -> None:
        """Called after a step has failed: waits until the device is idle.

        Raises `DeviceLost` where it can't compute any more.
        """
        return None

    def close(self) -> None:
        """Give the device's memory back."""


@dataclass
class StartReport:
    """Rows of the table printed at start: what, and how much or how long."""

    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, value: str) -> None:
        self.rows.append((what, value))


class LinearMethod(ABC):
    """How one linear layer stores and multiplies its weight."""

    is_cacheable: ClassVar[bool] = False
    """Whether all that `finish` makes is in the layer's parameters, with None for those that it dropped, and nothing in
    the method itself: a weight that was quantised by this method can be had from a cache then."""

    @abstractmethod
    def create(self, layer: torch.nn.Module, in_features: int, out_features: Sequence[int]) -> None:
        """Register the parameters (`sgcore.layers.parameters`); `out_features` has one entry for each fused part.

        Their names are the checkpoint's behind the layer's own. Raises `LaunchError` for sizes that the format can't
        have.
        """

    def finish(self, layer: torch.nn.Module) -> None:
        """After loading: repack for the device. Raises `LaunchError` for values that the format can't have."""
        return None

    @abstractmethod
    def apply(self, layer: torch.nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """(tokens, in) -> (tokens, out)."""

    def apply_normed(
        self, layer: torch.nn.Module, norm: RMSNorm, x: Tensor, residual: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`apply` to the normed sum of x and residual, and the sum: one kernel where a method has one."""
        normed, total = norm.add(x, residual)
        return self.apply(layer, normed, bias), total

    def apply_gated(
        self, layer: torch.nn.Module, norm: RMSNorm, x: Tensor, residual: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`apply_normed`, then silu of the first half of the result times the second half, and the sum."""
        both, total = self.apply_normed(layer, norm, x, residual, bias)
        return norm.kernels.silu_mul(both), total


class QuantScheme(ABC):
    """A quantization method (group `sgcore.quantization`, name is `quant_method` or `--quantization`)."""

    @classmethod
    @abstractmethod
    def from_config(cls, quantization_config: Mapping[str, Any]) -> QuantScheme:
        """From the checkpoint's `quantization_config`; empty: the weights are not quantised yet.

        Raises `LaunchError` for what the scheme doesn't know.
        """

    @abstractmethod
    def linear(self, parts: Sequence[str], build: Build) -> LinearMethod | None:
        """The method for a layer; None: not quantised. `parts` are the checkpoint's names of what is fused in it.

        Raises `LaunchError` where the parts can't share a method.
        """

    def tied(self, build: Build) -> LinearMethod | None:
        """The method for an output projection that has the embedding's weight; None: not quantised.

        It has to register `weight` alone, in the model's type, and to quantise that when it finishes.
        """
        return None

    def is_unused(self, name: str, tensor: Tensor) -> bool:
        """Whether a checkpoint's tensor that has no place in the model may be left out."""
        return False


class WeightSource(ABC):
    """A checkpoint on disk (group `sgcore.weights`, name is `--load-format`).

    Knows a file format: the configuration, the tensors and, where the format carries it, the tokenizer.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """File endings that this source reads, lower case."""

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Open lazily. Raises `LaunchError` for a path that it can't read."""

    @abstractmethod
    def hf_config(self) -> dict[str, Any]:
        """The model's configuration in Hugging Face's words, `architectures` included."""

    def tokenizer_config(self) -> dict[str, Any]:
        """What the launcher asks of the tokenizer, in Hugging Face's words: `chat_template`, `response_template`."""
        return {}

    def generation_config(self) -> dict[str, Any]:
        """Sampling defaults and end tokens in Hugging Face's words; empty where there are none."""
        return {}

    @abstractmethod
    def tokenizer(self) -> Any:
        """A `transformers.PreTrainedTokenizerBase`, chat template included."""

    @abstractmethod
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names (Hugging Face's, for the architecture) and host tensors, one at a time."""

    def quantization_config(self) -> dict[str, Any]:
        """For a format whose `tensors` are widened: the configuration of a scheme that reads `stored_tensors`.

        It becomes the configuration's `quantization_config`, unless `--quantization` asks for another. Empty: none.
        """
        return {}

    def stored_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """As `tensors`, for the scheme of `quantization_config`."""
        return self.tensors()

    def files(self) -> Sequence[Path]:
        """The files that the tensors are in; empty: what is made of them is not cached."""
        return ()

    def tensor_count(self) -> int | None:
        """How many tensors `tensors` yields, for the progress bar."""
        return None


@dataclass(frozen=True)
class CallMarkup:
    """How one tool call is written, for constraining its arguments. `{name}` stands for the tool's name.

    The arguments, a JSON object, stand between `begin` and `end`; `trigger` is what a call begins with, whatever its
    name is.
    """

    begin: str
    end: str
    trigger: str


@dataclass(frozen=True)
class ResponseFormat:
    """How a model writes reasoning and tool calls: data (group `sgcore.parsers`, an instance, not a class).

    The entry point's name is the value of `--tool-call-parser` and `--reasoning-parser`. `template` is a response
    template as transformers defines it. Its field `tool_calls` holds calls, `reasoning_content` reasoning, and either
    may be missing; what stands in no field is content. Calls in JSON are streamed, others come whole when they end.
    """

    template: Mapping[str, Any]
    call: CallMarkup | None = None
    """None: derived from the template, where it has literal delimiters around a JSON object."""


@dataclass(frozen=True)
class Constraint:
    """What an output must follow: `json_schema`, `regex`, `ebnf`, `structural_tag` or `choice`, and its text."""

    kind: str
    text: str
    """A `choice` is a JSON list of strings."""


class GrammarBackend(ABC):
    """Turns constraints into grammars (group `sgcore.grammars`, name is `--grammar-backend`). Thread-safe."""

    @abstractmethod
    def __init__(self, tokenizer: str, vocab_size: int, eos_ids: Sequence[int]) -> None:
        """`tokenizer` is JSON in the format of Hugging Face's `tokenizers`.

        A mask has `vocab_size` bits, and allows `eos_ids` where an output may end.
        """

    @abstractmethod
    def compile(self, constraint: Constraint) -> Grammar:
        """Called in a thread of its own. Raises ConstraintError that names what isn't supported."""


class Grammar(ABC):
    """A compiled constraint, shared by all requests that have it."""

    size_bytes: int
    """Memory that it takes, roughly; a cache of grammars is bounded by it."""
    has_failed: bool = False
    """Set when a matcher fails, by the core or by the matcher: outputs that start later get a grammar compiled anew."""

    @abstractmethod
    def start(self) -> Matcher:
        """A matcher at the beginning of an output."""


class Matcher(ABC):
    """One output under a grammar. Used by one thread at a time."""

    @abstractmethod
    def accept(self, tokens: Sequence[int]) -> None:
        """Advance over tokens. Raises ConstraintError if the grammar doesn't allow them."""

    @abstractmethod
    def fill(self, mask: Masks) -> None:
        """Write which tokens may come next into `mask` (words,). Releases the interpreter's lock where it can.

        Raises ConstraintError if there is none, or the grammar has become too complex.
        """

    def forced(self) -> Sequence[int]:
        """Tokens that must come next, as the tokenizer would split them; empty where there is a choice."""
        return ()

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether nothing but an end may follow."""
