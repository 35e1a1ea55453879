"""Interruptible: a psycopg connection that loses no cancellation."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from psycopg import AsyncConnection

from .ending import heed_cancellation


class InterruptibleConnection(AsyncConnection[Any]):
    """Whoever is cancelled while it waits for this connection hears of it.

    Before 3.3.6 psycopg waits by ``asyncio.wait_for``, which on Python 3.11 returns the result and
    forgets the cancellation if both come in the same turn of the event loop. ``asyncio.run``
    cancels a task once only, and would then wait for it for ever.
    """

    async def wait(self, *args: Any, **kwargs: Any) -> Any:
        """See psycopg; CancelledError for a cancellation meanwhile, even if the server answered."""
        before = _cancellations()
        result = await super().wait(*args, **kwargs)
        heed_cancellation(before)
        return result

    @classmethod
    async def open(cls, **parameters: Any) -> Self:
        """Connect; the arguments are those of ``AsyncConnection.connect``."""
        before = _cancellations()
        connection = await cls.connect(**parameters)
        try:
            heed_cancellation(before)
        except asyncio.CancelledError:
            await connection.close()
            raise
        return connection


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
