"""compressed-tensors against its definition: signed integers in words, and floats with scales."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sgcore.testing.quantization import Packed, QuantSuite
from sgcore_compressed_tensors.scheme import CompressedTensorsScheme


def config(stored: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None}
    more = {"quantization_status": "compressed", "ignore": ["lm_head"], "kv_cache_scheme": None}
    return {"quant_method": "compressed-tensors", "format": stored, "config_groups": {"group_0": group}, **more}


class CompressedSuite(QuantSuite):
    scheme = CompressedTensorsScheme

    def skipping(self, names: list[str]) -> dict[str, Any]:
        return {**self.config, "ignore": [rf"re:(.*\.)?{name}(\..*)?$" for name in names]}


def words(numbers: Tensor, bits: int) -> Tensor:
    """Signed (rows, n) -> int32 (rows, n bits / 32): shifted to begin at 0, the first in the lowest bits."""
    each = 32 // bits
    packed = [
        [sum(int(row[i + j] + 2 ** (bits - 1)) << (bits * j) for j in range(each)) for i in range(0, len(row), each)]
        for row in numbers.tolist()
    ]
    return torch.tensor(packed, dtype=torch.int64).to(torch.int32)


class PackedSuite(CompressedSuite):
    bits, group, sym, act = 4, 32, True, None
    optional = frozenset({"weight_shape"})
    misfits = ((80, 16),)
    error = 0.12

    def pack(self, weight: Tensor) -> Packed:
        out, size = weight.shape
        order = torch.arange(size) // self.group
        order = order[torch.randperm(size)] if self.act else order
        count, low, high = size // self.group, -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        scales, zeros, numbers = torch.zeros(out, count), torch.zeros(out, count), torch.zeros(out, size)
        for group in range(count):
            part = weight[:, order == group]
            spread = part.abs().amax(1) * 2 if self.sym else part.amax(1) - part.amin(1)
            scales[:, group] = (spread / (high - low)).bfloat16().float()
            if not self.sym:
                zeros[:, group] = (low - part.amin(1) / scales[:, group]).round().clamp(low, high)
            numbers[:, order == group] = (
                (part / scales[:, group, None] + zeros[:, group, None]).round().clamp(low, high)
            )
        wide = (numbers - zeros[:, order]) * scales[:, order]
        tensors = {"weight_packed": words(numbers, self.bits), "weight_scale": scales.bfloat16()}
        tensors["weight_shape"] = torch.tensor([out, size])
        if not self.sym:
            tensors["weight_zero_point"] = words(zeros.T, self.bits).T.contiguous()
        if self.act:
            tensors["weight_g_idx"] = order.int()
        return Packed(tensors, wide)


INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}


class TestFourBits(PackedSuite):
    config = config("pack-quantized", INT4)
    refused = (
        {"format": "marlin-24"},
        {"quantization_status": "calibration"},
        {"config_groups": {}},
        {"sparsity_config": {"format": "sparse-24-bitmask"}},
        {"config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4 | {"num_bits": 3}}}},
        {"config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4 | {"strategy": "tensor_group"}}}},
        {"config_groups": {"group_0": {"targets": ["Linear"], "weights": INT4, "input_activations": INT4}}},
    )


class TestFourBitsWithZeroPoints(PackedSuite):
    sym = False
    config = config("pack-quantized", INT4 | {"symmetric": False})


class TestEightBits(PackedSuite):
    bits, error = 8, 0.01
    config = config("pack-quantized", INT4 | {"num_bits": 8})


class TestOrdered(PackedSuite):
    act = "group"
    config = config("pack-quantized", INT4 | {"actorder": "group"})


def rounded(x: Tensor) -> Tensor:
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()


FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}


class TestFloat8(CompressedSuite):
    """A scale for each row of the weight and for each token."""

    config = config(
        "float-quantized", FLOAT8 | {"strategy": "channel"}, FLOAT8 | {"strategy": "token", "dynamic": True}
    )
    error, tolerance = 0.03, 0.05
    shapes = ((50, (7,)), (64, (24, 9, 16)))

    def pack(self, weight: Tensor) -> Packed:
        scale = (weight.abs().amax(1, keepdim=True) / 448).bfloat16().float()
        numbers = rounded(weight / scale)
        tensors = {"weight": numbers.to(torch.float8_e4m3fn), "weight_scale": scale.bfloat16()}
        return Packed(tensors, numbers * scale, self.rounded)

    def rounded(self, x: Tensor) -> Tensor:
        scale = x.abs().amax(1, keepdim=True) / 448
        return rounded(x / scale) * scale


class TestStaticFloat8(TestFloat8):
    config = config(
        "float-quantized", FLOAT8 | {"strategy": "tensor"}, FLOAT8 | {"strategy": "tensor", "dynamic": False}
    )

    def pack(self, weight: Tensor) -> Packed:
        scale, given = weight.abs().max() / 448, weight.abs().max() / 300
        numbers = rounded(weight / scale)
        tensors = {"weight": numbers.to(torch.float8_e4m3fn), "weight_scale": scale, "input_scale": given}
        return Packed(tensors, numbers * scale, lambda x: rounded(x / given) * given)


def test_targets_and_what_to_ignore() -> None:
    groups = {
        "a": {"targets": ["re:.*(q|k|v)_proj$"], "weights": INT4},
        "b": {"targets": ["model.layers.0.mlp.down_proj"], "weights": INT4 | {"num_bits": 8}},
    }
    scheme = CompressedTensorsScheme.from_config(
        TestFourBits.config | {"config_groups": groups, "ignore": ["re:.*layers.1.*", "model.layers.2.q_proj"]}
    )
    for name, bits in (("layers.0.q_proj", 4), ("model.layers.0.mlp.down_proj", 8)):
        group = scheme._group(name)
        assert group is not None and group.weights["num_bits"] == bits
    for name in ("model.layers.1.q_proj", "model.layers.2.q_proj", "model.layers.0.mlp.up_proj"):
        assert scheme._group(name) is None
