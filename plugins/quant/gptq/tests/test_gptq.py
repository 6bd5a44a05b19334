"""GPTQ against its definition, written with Python's own integers."""

from __future__ import annotations

import torch
from torch import Tensor

from sgcore.testing.quantization import Packed, QuantSuite
from sgcore_gptq.scheme import GptqScheme


def words(numbers: Tensor, bits: int) -> Tensor:
    """(n, columns) -> int32 (n bits / 32, columns): consecutive rows in a word, the first in the lowest bits."""
    rows, each = numbers.tolist(), 32 // bits
    packed = [
        [sum(rows[i + j][column] << (bits * j) for j in range(each)) for column in range(len(rows[0]))]
        for i in range(0, len(rows), each)
    ]
    return torch.tensor(packed, dtype=torch.int64).to(torch.int32)


class GptqSuite(QuantSuite):
    scheme = GptqScheme
    bits, group, sym, shift, desc_act = 4, 32, False, 1, False
    error = 0.1
    misfits = ((80, 16), (64, 12))
    optional = frozenset({"g_idx"})
    skip_key = "modules_to_not_convert"
    refused = ({"bits": 3}, {"checkpoint_format": "marlin"}, {"group_size": None}, {"dynamic": {".*mlp": {"bits": 8}}})
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}

    def order(self, size: int) -> Tensor:
        """The group of each input feature."""
        return torch.arange(size) // (size if self.group == -1 else self.group)

    def pack(self, weight: Tensor) -> Packed:
        out, size = weight.shape
        groups, most = self.order(size), 2**self.bits - 1
        scales, zeros = torch.zeros(int(groups.max()) + 1, out), torch.zeros(int(groups.max()) + 1, out)
        numbers = torch.zeros(size, out)
        for group in range(len(scales)):
            part = weight[:, groups == group]
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            if self.sym:
                high = torch.maximum(-low, high)
                low = -high
            scales[group] = ((high - low) / most).half().float()
            zeros[group] = (most + 1) / 2 if self.sym else (-low / scales[group]).round().clamp(self.shift, most)
            numbers[groups == group] = (part.T / scales[group] + zeros[group]).round().clamp(0, most)
        wide = ((numbers - zeros[groups]) * scales[groups]).T
        stored = words((zeros - self.shift).int().T, self.bits).T.contiguous()
        tensors = {"qweight": words(numbers.int(), self.bits), "qzeros": stored, "scales": scales.half()}
        return Packed(tensors | {"g_idx": groups.int()}, wide.contiguous())


class TestFourBits(GptqSuite): ...


class TestSymmetric(GptqSuite):
    sym, error = True, 0.13


class TestEightBits(GptqSuite):
    bits, group, error = 8, -1, 0.01
    config = GptqSuite.config | {"bits": 8, "group_size": -1}
    misfits = ((72, 16), (64, 6))


class TestSecondFormat(GptqSuite):
    shift = 0
    config = GptqSuite.config | {"checkpoint_format": "gptq_v2"}


class TestOrdered(GptqSuite):
    """Features are grouped in an order of each part's own."""

    config = GptqSuite.config | {"desc_act": True}
    optional = frozenset()

    def order(self, size: int) -> Tensor:
        return super().order(size)[torch.randperm(size)]


class TestOrderedEightBits(TestOrdered):
    bits, error = 8, 0.01
    config = TestOrdered.config | {"bits": 8}
    misfits = ((80, 16), (64, 6))
