"""Ahead: the next batch is under way while the last one is worked on, so that PostgreSQL and Python
work side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

from ..ending import end

T = TypeVar("T")


async def ahead(source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The items of `source`, which is closed with this; none may be None.

    An item is asked for before the one before it is given. Who leaves early cancels that, so do
    it only where what `source` reads from is given up too.
    """
    upcoming = asyncio.create_task(_next(source))
    try:
        while (item := await upcoming) is not None:
            upcoming = asyncio.create_task(_next(source))
            await asyncio.sleep(0)  # begins it
            yield item
    finally:
        await end([upcoming])
        if not upcoming.cancelled():
            upcoming.exception()  # asyncio complains of one that nobody looks at
        await source.aclose()


async def _next(source: AsyncGenerator[T, None]) -> T | None:
    return await anext(source, None)  # StopAsyncIteration can't leave a task
