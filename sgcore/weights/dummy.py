"""A Hugging Face folder's configuration without its weights: speed and memory can be measured with random ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from sgcore.weights.folder import FolderSource

if TYPE_CHECKING:
    from torch import Tensor


class DummySource(FolderSource):
    """Yields nothing; the loader fills every parameter with random values."""

    is_random: ClassVar[bool] = True

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())

    def tensor_count(self) -> int:
        return 0
