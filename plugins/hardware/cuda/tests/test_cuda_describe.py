"""What the doctor shows of the devices, with and without NVML."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from sgcore_cuda.hooks import describe


class Refusal(Exception):
    pass


def nvml(**overrides: object) -> SimpleNamespace:
    answers = dict(
        NVMLError=Refusal,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda place: place,
        nvmlDeviceGetName=lambda handle: f"GPU {handle}",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=80 << 30),
        nvmlSystemGetDriverVersion=lambda: "580.1",
    )
    return SimpleNamespace(**{**answers, **overrides})


def refuse() -> None:
    raise Refusal("Driver Not Loaded")


@pytest.mark.parametrize(
    "module, expected",
    [
        (None, "an NVIDIA GPU"),
        (nvml(), "GPU 0, 80 GiB; GPU 1, 80 GiB; driver 580.1"),
        (nvml(nvmlInit=refuse), "an NVIDIA GPU; NVML says: Driver Not Loaded"),
    ],
)
def test_devices_are_described(module: object, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert describe() == expected
