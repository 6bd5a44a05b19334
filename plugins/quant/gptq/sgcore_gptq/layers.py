"""Which layers a GPTQ configuration leaves out: three ways to say it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgcore.errors import LaunchError
from sgcore.layers.skips import agree, is_named

OUTPUT = "lm_head"


@dataclass(frozen=True)
class Layers:
    """`lm_head`, `modules_in_block_to_quantize` and GPTQModel's `dynamic`."""

    skipped: tuple[str, ...]
    excluded: tuple[re.Pattern[str], ...]
    only: tuple[str, ...]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Layers:
        """Raises `LaunchError` for layers with settings of their own."""
        dynamic = config.get("dynamic") or {}
        other = [pattern for pattern, change in dynamic.items() if not pattern.startswith("-:") and change]
        if other:
            raise LaunchError(f"gptq: layers with other settings ({other[0]}) aren't supported", "quantise all alike")
        try:
            excluded = tuple(re.compile(pattern[2:]) for pattern in dynamic if pattern.startswith("-:"))
        except re.error as error:
            raise LaunchError(f"gptq: a pattern of `dynamic` is no regular expression: {error}") from error
        named = tuple(config.get("modules_to_not_convert") or ())
        skipped = named if config.get("lm_head") else (*named, OUTPUT)
        only = [name for names in config.get("modules_in_block_to_quantize") or () for name in _listed(names)]
        return cls(skipped, excluded, tuple(only))

    def leaves_out(self, parts: Sequence[str]) -> bool:
        """Whether a layer of these parts isn't quantised; raises `LaunchError` where only some are."""
        return agree(parts, [self._leaves_out(part) for part in parts])

    def _leaves_out(self, part: str) -> bool:
        if is_named(part, self.skipped) or any(pattern.match(part) for pattern in self.excluded):
            return True
        return bool(self.only) and not is_named(part, self.only) and part != OUTPUT


def _listed(names: Any) -> Sequence[str]:
    return [names] if isinstance(names, str) else names
