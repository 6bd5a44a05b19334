"""The weight source: one `.gguf` file."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gguf.constants import GGMLQuantizationType

from sgcore.api import WeightSource
from sgcore_gguf import configuration
from sgcore_gguf.architectures import architecture, hf_name
from sgcore_gguf.dequantize import check_type, raw_bytes, read_array
from sgcore_gguf.header import TensorInfo, read_header
from sgcore_gguf.packed import packed_layers, packed_tensors

if TYPE_CHECKING:
    from torch import Tensor


class GGUFSource(WeightSource):
    """Reads the header when opened, and a tensor when it is asked for."""

    suffixes: ClassVar[tuple[str, ...]] = (".gguf",)

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.header = read_header(self.path)
        self.architecture = architecture(str(self.header.metadata.get("general.architecture", "")))
        for info in self.header.tensors.values():
            check_type(self.path, info)

    def hf_config(self) -> dict[str, Any]:
        factors = self.header.tensors.get("rope_freqs.weight")
        return configuration.hf_config(self.header, None if factors is None else read_array(self.path, factors))

    def generation_config(self) -> dict[str, Any]:
        return configuration.generation_config(self.header)

    def tokenizer_config(self) -> dict[str, Any]:
        return {"chat_template": self.header.metadata.get("tokenizer.chat_template")}

    def tokenizer(self) -> Any:
        from sgcore_gguf.tokenizer import build_tokenizer

        return build_tokenizer(self.header.metadata, self.hf_config()["max_position_embeddings"])

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
            for field, tensor in self._read(info, layer in packed and kind == "weight").items():
                is_permuted = self.architecture.permutes_qk and part in heads
                yield f"{layer}.{field or kind}", permute_back(tensor, heads[part]) if is_permuted else tensor

    def files(self) -> Sequence[Path]:
        return (self.path,)

    def tensor_count(self) -> int:
        return sum(hf_name(name) is not None for name in self.header.tensors)

    def _read(self, info: TensorInfo, is_packed: bool) -> dict[str, Tensor]:
        """By the names of a packed layer's tensors; one that is wide has no other name than the file's."""
        import torch

        if is_packed:
            fields = packed_tensors(raw_bytes(self.path, info), info)
            return {field: torch.from_numpy(array) for field, array in fields.items()}
        tensor = torch.from_numpy(read_array(self.path, info))
        return {"": tensor.view(torch.bfloat16) if info.kind == GGMLQuantizationType.BF16 else tensor}


def permute_back(tensor: Tensor, heads: int) -> Tensor:
    """Rows (heads x head_dim, ...) of q or k from llama.cpp's interleaved order to Hugging Face's halves."""
    head_dim = len(tensor) // heads
    paired = tensor.reshape(heads, head_dim // 2, 2, *tensor.shape[1:])
    return paired.transpose(1, 2).reshape(tensor.shape)
