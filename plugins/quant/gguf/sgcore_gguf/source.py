"""The weight source: one `.gguf` file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gguf.constants import GGMLQuantizationType

from sgcore.api import WeightSource
from sgcore_gguf import configuration
from sgcore_gguf.architectures import architecture, hf_name
from sgcore_gguf.dequantize import check_type, read_array
from sgcore_gguf.header import TensorInfo, read_header

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

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        config = self.hf_config()
        heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        for info in self.header.tensors.values():
            name = hf_name(info.name)
            if name is None:
                continue
            tensor = self._read(info)
            part = info.name.split(".")[-2]
            if self.architecture.permutes_qk and part in heads:
                tensor = permute_back(tensor, heads[part])
            yield name, tensor

    def tensor_count(self) -> int:
        return sum(hf_name(name) is not None for name in self.header.tensors)

    def _read(self, info: TensorInfo) -> Tensor:
        import torch

        tensor = torch.from_numpy(read_array(self.path, info))
        return tensor.view(torch.bfloat16) if info.kind == GGMLQuantizationType.BF16 else tensor


def permute_back(tensor: Tensor, heads: int) -> Tensor:
    """Rows (heads x head_dim, ...) of q or k from llama.cpp's interleaved order to Hugging Face's halves."""
    head_dim = len(tensor) // heads
    paired = tensor.reshape(heads, head_dim // 2, 2, *tensor.shape[1:])
    return paired.transpose(1, 2).reshape(tensor.shape)
