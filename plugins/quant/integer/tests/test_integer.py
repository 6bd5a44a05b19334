"""int8 and int4 against their definition: the nearest of the integers in a group, times its scale."""

from __future__ import annotations

import torch
from torch import Tensor

from sgcore.api import Build
from sgcore.kernels import Kernels
from sgcore.layers.linear import Embedding
from sgcore.testing.quantization import Packed, QuantSuite
from sgcore_integer.scheme import Int4Scheme, Int8Scheme


def whole(scale: Tensor) -> Tensor:
    """A scale is a number that float16 has."""
    return scale.to(torch.float16).to(torch.float32)


class TestInt8(QuantSuite):
    scheme = Int8Scheme
    options = {"quantization": "int8"}
    error = 0.01
    quantises_at_start = True
    tolerance = 0.05  # the output projection is rounded as well, which the suite does not know
    misfits = ((40, 8), (72, 8))
    refused = ({"quant_method": "awq"},)
    size = 64

    def pack(self, weight: Tensor) -> Packed:
        size = self.size if weight.shape[1] % self.size == 0 else 32
        groups = weight.split(size, dim=1)
        return Packed({"weight": weight}, torch.cat([self.rounded(group) for group in groups], dim=1))

    def rounded(self, group: Tensor) -> Tensor:
        scale = whole(group.abs().amax(1, keepdim=True) / 127)
        return (group / scale).round() * scale

    def test_a_tied_projection_is_rounded_and_the_lookup_is_not(self) -> None:
        build = Build(Kernels(), torch.float32, torch.device("cpu"), self.scheme())
        embedding = Embedding(build, 40, 64, is_tied=True)
        weight = torch.randn(40, 64)
        embedding.weight.data.copy_(weight)
        embedding.finish()
        scale = whole(weight.abs().amax(1, keepdim=True) / 127)
        x = torch.randn(3, 64)
        torch.testing.assert_close(embedding.project(x), x @ ((weight / scale).round() * scale).T, atol=1e-4, rtol=1e-4)
        assert torch.equal(embedding(torch.tensor([7])), weight[7:8])
        assert "output" not in dict(embedding.named_parameters()) and len(list(embedding.parameters())) == 1


class TestInt4(TestInt8):
    scheme = Int4Scheme
    options = {"quantization": "int4"}
    error = 0.1
    size = 32

    def rounded(self, group: Tensor) -> Tensor:
        least, most = group.amin(1, keepdim=True).clamp(max=0), group.amax(1, keepdim=True).clamp(min=0)
        scale = whole((most - least) / 15)
        zero = (-least / scale).round()
        return (((group / scale).round() + zero).clamp(0, 15) - zero) * scale

    def test_groups_of_zeros_and_of_one_sign(self) -> None:
        weight = torch.cat((torch.zeros(4, 32), torch.rand(4, 32) + 0.5, -torch.rand(4, 32) - 0.5), dim=1)
        layer = self.loaded([Packed({"weight": weight}, weight)])
        out = layer(torch.eye(96)).T
        assert torch.equal(out[:, :32], torch.zeros(4, 32))
        assert float((out - weight).abs().max()) < 0.06
