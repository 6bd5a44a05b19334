"""NF4 against its definition: each weight is the nearest of 16 values, times the largest of its block."""

from __future__ import annotations

import torch
from sgcore_nf4.scheme import VALUES, NF4Scheme

from sgcore.testing.quantization import Packed, QuantSuite


class TestNF4(QuantSuite):
    scheme = NF4Scheme
    config = {"quant_method": "nf4", "block_size": 16}
    quantises_at_start = True
    error = 0.11
    misfits = ((40, 8),)
    refused = ({"block_size": 48},)
    skip_key = "modules_to_not_convert"

    def pack(self, weight: torch.Tensor) -> Packed:
        blocks = weight.view(len(weight), -1, 16)
        scales = blocks.abs().amax(-1, keepdim=True)
        values = torch.tensor(VALUES)
        nearest = (blocks[..., None] / scales[..., None] - values).abs().argmin(-1)
        return Packed({"weight": weight}, (values[nearest] * scales).view_as(weight))
