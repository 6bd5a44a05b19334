"""Which products go to the library: decided on the host, so no GPU is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sgcore.kernels import Kernels
from sgcore_cuda import products
from sgcore_cuda.kernels import LIBRARY_TOKENS, CudaKernels


@pytest.mark.skipif(torch.cuda.is_available(), reason="computes on the host")
def test_a_device_without_float8_widens_large_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("this device multiplies no 8-bit floats")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    for module in ("sgcore_cuda.kernels", "sgcore_triton.float8"):
        monkeypatch.setattr(f"{module}.has_float8", lambda x: False)
    reference = Kernels()
    x, rates = reference.quantize_fp8(torch.randn(LIBRARY_TOKENS, 32))
    weight, scale = reference.quantize_fp8(torch.randn(16, 32))
    product = (x, rates, weight, scale.flatten(), torch.bfloat16)
    assert torch.equal(CudaKernels().product_fp8(*product), reference.product_fp8(*product))


@pytest.mark.parametrize("text", ["[1]", '{"1x2x3": [4]}', '{"8x16x32": "cublas", "no shape": "cublas"}', "{", "\0"])
def test_a_damaged_file_of_choices_costs_measuring_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    file = tmp_path / "products.json"
    file.write_text(text)
    monkeypatch.setattr(products, "cache_file", lambda: file)
    chosen = products.Products()
    chosen._load()
    chosen._chosen[8, 16, 32] = "cublaslt"
    chosen._save()
    again = products.Products()
    again._load()
    assert again._chosen == {(8, 16, 32): "cublaslt"}
