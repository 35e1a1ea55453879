"""Interruptible: a psycopg connection that loses no cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from psycopg import AsyncConnection

from .ending import heed_cancellation


class InterruptibleConnection(AsyncConnection[Any]):
    """Whoever is cancelled while it waits for this connection hears of it.

    Before 3.3.6 psycopg waits by ``asyncio.wait_for``, which on Python 3.11 gives the answer, or
    the error, and forgets the cancellation if both come in the same turn of the event loop. A
    TaskGroup and ``asyncio.run`` cancel a task once only, and would then wait for it for ever.
    """

    async def wait(self, *args: Any, **kwargs: Any) -> Any:
        """See psycopg; CancelledError for a cancellation meanwhile, whatever the server said."""
        with _interruptible():
            return await super().wait(*args, **kwargs)

    @classmethod
    async def open(cls, **parameters: Any) -> Self:
        """Connect; the arguments are those of ``AsyncConnection.connect``."""
        before = _cancellations()
        try:
            with _interruptible():
                connection = await cls.connect(**parameters)
                if _cancellations() > before:
                    await connection.close()
        except asyncio.CancelledError as error:
            # A connection that is half open is closed with psycopg's frames, and a cancelled task
            # keeps those with the traceback, often in a cycle: until some day it is collected.
            raise error.with_traceback(None) from None
        return connection


@contextmanager
def _interruptible() -> Iterator[None]:
    before = _cancellations()
    try:
        yield
    except Exception:
        heed_cancellation(before)
        raise
    heed_cancellation(before)


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
