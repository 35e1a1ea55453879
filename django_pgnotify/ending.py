"""Ending: how tasks are stopped, for everything here that starts some."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

AGAIN_SECONDS = 0.5
"""Between two cancellations of the same task."""


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return when they have ended, however often it takes.

    Once is not enough: redis-py takes a cancellation during a connect for a success, and on
    Python 3.11 ``wait_for`` may lose one.
    """
    waiting = {task for task in tasks if not task.done()}
    while waiting:
        for task in waiting:
            task.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=AGAIN_SECONDS)
