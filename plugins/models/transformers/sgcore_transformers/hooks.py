"""Takes the architectures that no plugin offers, and says early which of them can't work."""

from __future__ import annotations

from typing import Any

from sgcore import hookimpl
from sgcore.api import HfConfig
from sgcore_transformers.refusals import reasons

DRIVER = "transformers"
DISTRIBUTION = "sgcore-transformers"


@hookimpl
def sgcore_fall_back(hf_config: HfConfig) -> str | None:
    return DRIVER if hf_config.get("model_type") else None


@hookimpl
def sgcore_check(plan: Any) -> list[str] | None:
    if plan.model.distribution != DISTRIBUTION:
        return None
    name = (plan.hf_config.get("architectures") or ["the model"])[0]
    hint = "only a plugin made for it can serve it"
    return [f"{name} can't run through transformers: {reason}; {hint}" for reason in reasons(plan.hf_config)]
