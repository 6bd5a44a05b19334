"""Several streams of generations as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from sgcore.engine.frontend import Generation

AT_ONCE = 8
"""Sources that are begun before others get their turn: to begin one may be to tokenise 4,096 characters."""
Changes = list[tuple[int, Generation]]
"""Generations that changed, each with the place of its source."""


async def merge(sources: list[AsyncGenerator[Generation, None]]) -> AsyncGenerator[Changes, None]:
    """Several streams as one. What changes while the reader is busy arrives in one batch."""
    changed: dict[tuple[int, int], Generation] = {}
    failures: list[BaseException] = []
    wake = asyncio.Event()
    left = len(sources)

    async def drain(position: int, source: AsyncGenerator[Generation, None]) -> None:
        nonlocal left
        try:
            async with aclosing(source):
                async for generation in source:
                    changed[position, generation.index] = generation
                    wake.set()
        except Exception as error:
            failures.append(error)
        finally:
            left -= 1
            wake.set()

    tasks: list[asyncio.Task[None]] = []
    try:
        for position, source in enumerate(sources):
            tasks.append(asyncio.ensure_future(drain(position, source)))
            if position % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        while left or changed:
            await wake.wait()
            wake.clear()
            if failures:
                raise failures[0]
            batch = [(position, generation) for (position, _), generation in changed.items()]
            changed.clear()
            if batch:
                yield batch
            if changed or not left:
                wake.set()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
