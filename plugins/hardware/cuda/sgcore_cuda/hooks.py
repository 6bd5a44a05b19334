"""Offers the GPU where its driver shows one, and says what suits it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgcore import hookimpl
from sgcore.api import PlatformOffer

DRIVER = Path("/proc/driver/nvidia/gpus")
DEVICE = Path("/dev/nvidia0")
STEP_TOKENS = 8192
"""A step of this many tokens fills the device; with fewer, products run below their best rate."""
MIXED_TOKENS = 256
"""Where rows decode: the weights are read for them anyway, and up to so many tokens hardly delay them."""
LAUNCH_S = 0.9e-3
"""Host time of a layer that is launched kernel by kernel."""
FLOPS = 700e12
"""What large products reach on an H100 in bfloat16, a second."""


@hookimpl
def sgcore_offer_platform() -> PlatformOffer | None:
    return PlatformOffer("cuda", describe()) if DEVICE.exists() or DRIVER.is_dir() else None


def describe() -> str:
    """The devices and the driver in NVML's words, where `nvidia-ml-py` is installed. Starts no context."""
    try:
        import pynvml
    except ImportError:
        return "an NVIDIA GPU"
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(place) for place in range(pynvml.nvmlDeviceGetCount())]
        names = [f"{pynvml.nvmlDeviceGetName(h)}, {pynvml.nvmlDeviceGetMemoryInfo(h).total >> 30} GiB" for h in handles]
        return f"{'; '.join(names)}; driver {pynvml.nvmlSystemGetDriverVersion()}"
    except pynvml.NVMLError as error:
        return f"an NVIDIA GPU; NVML says: {error}"


@hookimpl
def sgcore_default_options(plan: Any) -> Mapping[str, Any] | None:
    if plan.platform.name != "cuda":
        return None
    most = STEP_TOKENS + int(plan.options["max_running_requests"])
    graph_tokens = min(host_bound_tokens(plan.hf_config), most)
    return {"chunked_prefill_size": STEP_TOKENS, "mixed_chunk_size": MIXED_TOKENS, "graph_tokens": graph_tokens}


def host_bound_tokens(config: Mapping[str, Any]) -> int:
    """Tokens of a step up to which launching its kernels takes longer than computing them."""
    hidden = int(config["hidden_size"])
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or hidden // heads)
    attention = 2 * (heads + int(config.get("num_key_value_heads") or heads)) * head_dim * hidden
    layer = attention + 3 * hidden * int(config.get("intermediate_size") or 4 * hidden)
    return int(LAUNCH_S * FLOPS / (2 * layer))
