"""Random weights: small, the same every time, and as fast as a copy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCK = 1_000_003
"""Values drawn once and repeated over all parameters; a prime, so that no two rows of a weight are alike."""
SPREAD = 0.02
"""Standard deviation, as most models start their training with."""


def fill_random(model: nn.Module, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
    """Norm weights become 1, other parameters normal values (or random bytes, for an integer type) from `seed`.

    A parameter that says how others are read stays as it was made.
    """
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(BLOCK, generator=generator) * SPREAD).to(device, dtype)
    raw = torch.randint(0, 256, (BLOCK,), generator=generator, dtype=torch.uint8).to(device)
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith(".weight"):
            parameter.data.fill_(1.0)
            continue
        if getattr(parameter, "is_structure", False):
            continue
        shift = int(torch.randint(0, BLOCK, (1,), generator=generator))
        if parameter.is_floating_point():
            _tile(parameter.data.view(-1), values.roll(shift))
        else:
            _tile(parameter.data.view(-1).view(torch.uint8), raw.roll(shift))


def _tile(flat: Tensor, block: Tensor) -> None:
    for start in range(0, len(flat), len(block)):
        rows = flat[start : start + len(block)]
        rows.copy_(block[: len(rows)])
