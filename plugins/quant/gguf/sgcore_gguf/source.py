"""The weight source: one `.gguf` file."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, TypeVar

from gguf.constants import GGMLQuantizationType

from sgcore.api import WeightSource
from sgcore.errors import LaunchError
from sgcore_gguf import configuration
from sgcore_gguf.architectures import architecture, hf_name
from sgcore_gguf.dequantize import check_type, raw_bytes, read_array
from sgcore_gguf.header import DAMAGED, TensorInfo, read_header
from sgcore_gguf.packed import packed_layers, packed_tensors

if TYPE_CHECKING:
    from torch import Tensor


P = ParamSpec("P")
R = TypeVar("R")


def refusing(read: Callable[Concatenate[GGUFSource, P], R]) -> Callable[Concatenate[GGUFSource, P], R]:
    """Has a method of the source raise `LaunchError` for what nobody writes into a file: types, ids, texts."""

    @wraps(read)
    def reading(source: GGUFSource, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return read(source, *args, **kwargs)
        except LaunchError:
            raise
        except Exception as error:  # the tokenizers library raises plain ones
            reason = f"{type(error).__name__}: {error}"
            raise LaunchError(f"{source.path} has metadata that can't be right: {reason}", DAMAGED) from error

    return reading


class GGUFSource(WeightSource):
    """Reads the header when opened, and a tensor when it is asked for."""

    suffixes: ClassVar[tuple[str, ...]] = (".gguf",)

    @refusing
    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.header = read_header(self.path)
        self.architecture = architecture(str(self.header.metadata.get("general.architecture", "")))
        for info in self.header.tensors.values():
            check_type(self.path, info)

    @refusing
    def hf_config(self) -> dict[str, Any]:
        factors = self.header.tensors.get("rope_freqs.weight")
        return configuration.hf_config(self.header, None if factors is None else read_array(self.path, factors))

    @refusing
    def generation_config(self) -> dict[str, Any]:
        return configuration.generation_config(self.header)

    def tokenizer_config(self) -> dict[str, Any]:
        return {"chat_template": self.header.metadata.get("tokenizer.chat_template")}

    @refusing
    def tokenizer(self) -> Any:
        from sgcore_gguf.tokenizer import build_tokenizer

        return build_tokenizer(self.header.metadata, self.hf_config()["max_position_embeddings"])

    @refusing
    def quantization_config(self) -> dict[str, Any]:
        layers = packed_layers(self.header)
        embedding = self.header.tensors["token_embd.weight"].kind.name
        return {"quant_method": "gguf", "layers": layers, "embedding": embedding} if layers else {}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return self._tensors(frozenset())

    def stored_tensors(self) -> Iterator[tuple[str, Tensor]]:
        return self._tensors(packed_layers(self.header))

    def _tensors(self, packed: Container[str]) -> Iterator[tuple[str, Tensor]]:
        """Those of `packed` layers as `packed_tensors` says, the others wide."""
        config = self.hf_config()
        heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        for info in self.header.tensors.values():
            name = hf_name(info.name)
            if name is None:
                continue
            layer, _, kind = name.rpartition(".")
            part = info.name.split(".")[-2]
            permuted = heads.get(part) if self.architecture.permutes_qk else None
            for field, tensor in self._read(info, layer in packed and kind == "weight", permuted).items():
                yield f"{layer}.{field or kind}", tensor

    def files(self) -> Sequence[Path]:
        return (self.path,)

    def tensor_count(self) -> int:
        return sum(hf_name(name) is not None for name in self.header.tensors)

    @refusing
    def _read(self, info: TensorInfo, is_packed: bool, permuted: int | None) -> dict[str, Tensor]:
        """By the names of a packed layer's tensors; one that is wide has no other name than the file's.

        `permuted`: heads whose halves are put back where they belong.
        """
        import torch

        if is_packed:
            fields = packed_tensors(raw_bytes(self.path, info), info)
            tensors = {field: torch.from_numpy(array) for field, array in fields.items()}
        else:
            tensor = torch.from_numpy(read_array(self.path, info))
            tensors = {"": tensor.view(torch.bfloat16) if info.kind == GGMLQuantizationType.BF16 else tensor}
        return {field: permute_back(tensor, permuted) if permuted else tensor for field, tensor in tensors.items()}


def permute_back(tensor: Tensor, heads: int) -> Tensor:
    """Rows (heads x head_dim, ...) of q or k from llama.cpp's interleaved order to Hugging Face's halves."""
    head_dim = len(tensor) // heads
    paired = tensor.reshape(heads, head_dim // 2, 2, *tensor.shape[1:])
    return paired.transpose(1, 2).reshape(tensor.shape)
