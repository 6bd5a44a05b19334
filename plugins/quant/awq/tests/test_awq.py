"""AWQ against its definition, written with Python's own integers."""

from __future__ import annotations

import torch
from torch import Tensor

from sgcore.testing.quantization import Packed, QuantSuite
from sgcore_awq.scheme import AwqScheme

OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which output stands in each place of a word, from the lowest bits."""


def words(numbers: Tensor) -> Tensor:
    """(rows, out) -> int32 (rows, out / 8)."""
    packed = [
        [sum(row[i + output] << (4 * place) for place, output in enumerate(OUTPUTS)) for i in range(0, len(row), 8)]
        for row in numbers.int().tolist()
    ]
    return torch.tensor(packed, dtype=torch.int64).to(torch.int32)


class TestAwq(QuantSuite):
    scheme = AwqScheme
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    error = 0.1
    misfits = ((80, 16), (64, 12))
    skip_key = "modules_to_not_convert"
    refused = ({"bits": 3}, {"version": "gemv"}, {"zero_point": False}, {"group_size": "large"})

    def pack(self, weight: Tensor) -> Packed:
        groups = weight.T.unflatten(0, (-1, 32))  # (groups, 32, out)
        low, high = groups.amin(1), groups.amax(1)
        scales = ((high - low) / 15).half().float()
        zeros = (-low / scales).round().clamp(0, 15)
        numbers = (groups / scales[:, None] + zeros[:, None]).round().clamp(0, 15)
        tensors = {"qweight": words(numbers.flatten(0, 1)), "qzeros": words(zeros), "scales": scales.half()}
        return Packed(tensors, ((numbers - zeros[:, None]) * scales[:, None]).flatten(0, 1).T.contiguous())


class TestWholeColumns(TestAwq):
    config = TestAwq.config | {"group_size": -1}
    error = 0.2

    def pack(self, weight: Tensor) -> Packed:
        low, high = weight.amin(1), weight.amax(1)
        scales = ((high - low) / 15).half().float()
        zeros = (-low / scales).round().clamp(0, 15)
        numbers = (weight.T / scales + zeros).round().clamp(0, 15)
        tensors = {"qweight": words(numbers), "qzeros": words(zeros[None]), "scales": scales[None].half()}
        return Packed(tensors, ((numbers - zeros) * scales).T.contiguous())
