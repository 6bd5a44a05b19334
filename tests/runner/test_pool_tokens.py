"""How many tokens the pool gets: asked for, or what the platform wants, there is room for, and rows could use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sgcore.runner.runner import ModelRunner

KIB = 1024
ROOM = 1 << 40


def tokens(cache_bytes: int | None, room: int = ROOM, context: int = 100, **options: Any) -> int:
    plan = SimpleNamespace(options={"max_running_requests": 1000, **options}, context_tokens=context)
    runner = SimpleNamespace(plan=plan, page_tokens=10, platform=SimpleNamespace(cache_bytes=cache_bytes))
    return ModelRunner._pool_tokens(runner, room, KIB)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cache_bytes", "given", "wanted"),
    [
        (None, {}, 100_000),
        (2000 * KIB, {}, 2000),
        (2000 * KIB, {"room": 1500}, 1500),
        (2000 * KIB, {"context": 5000}, 5000),
        (2000 * KIB, {"max_total_tokens": 7000}, 7000),
        (2000 * KIB, {"mem_fraction_static": 0.5}, 100_000),
    ],
)
def test_the_platforms_bound_holds_unless_something_else_is_said(cache_bytes, given, wanted) -> None:
    assert tokens(cache_bytes, **given) == wanted
