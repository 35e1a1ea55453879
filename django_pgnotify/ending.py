"""Ending: how tasks are stopped, and what is still done before an event loop is closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

logger = logging.getLogger(__name__)

T = TypeVar("T")
Goodbye: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

AGAIN_SECONDS = 0.5
"""Between two cancellations of the same task."""

_last_tasks: WeakKeyDictionary[asyncio.AbstractEventLoop, set[asyncio.Task[None]]]
_last_tasks = WeakKeyDictionary()


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


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Do something in this time, or end it for good and raise TimeoutError."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        in_time = task.done()
    finally:
        await end({task})
    if not in_time:
        raise TimeoutError(f"no answer within {seconds} seconds")
    return task.result()


def heed_cancellation(known: int = 0) -> None:
    """Raise CancelledError if the running task was cancelled more often than is `known`: something
    on the way took that for something else, as a TaskGroup does before Python 3.13 if a child
    fails at the same time."""
    task = asyncio.current_task()
    if task is not None and task.cancelling() > known:
        raise asyncio.CancelledError


def before_close(loop: asyncio.AbstractEventLoop, goodbye: Goodbye) -> None:
    """Run a coroutine when the loop is closed; of several the latest first. It is left out where
    another loop runs in the thread, and its error is logged.

    `async_to_sync` makes a loop for each call, and nothing else tells that one ends.
    """
    goodbyes: list[Goodbye] | None = getattr(loop.close, "goodbyes", None)
    if goodbyes is None:
        goodbyes = _close_after_goodbyes(loop)
    goodbyes.append(goodbye)


def _close_after_goodbyes(loop: asyncio.AbstractEventLoop) -> list[Goodbye]:
    close_loop = loop.close
    goodbyes: list[Goodbye] = []

    def close() -> None:
        if loop.is_running():
            close_loop()  # which refuses it
            return
        loop.close = close_loop  # type: ignore[method-assign]
        try:
            while goodbyes:
                _say(loop, goodbyes.pop())
        finally:
            loop.close()

    close.goodbyes = goodbyes  # type: ignore[attr-defined]
    loop.close = close  # type: ignore[method-assign]
    return goodbyes


def _say(loop: asyncio.AbstractEventLoop, goodbye: Goodbye) -> None:
    if loop.is_closed() or asyncio._get_running_loop() is not None:
        return
    try:
        # A stop() before close() waits for the next run, which it would end too early.
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.run_until_complete(goodbye())
    except (Exception, asyncio.CancelledError):  # the others have something to say too
        logger.exception("what an event loop has left open was not closed")


def start_last(coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
    """Start a task that nobody need hold, and that comes to its end even if it is begun while its
    loop is about to be closed, when all other tasks are cancelled."""
    loop = asyncio.get_running_loop()
    if loop not in _last_tasks:
        _last_tasks[loop] = set()
        before_close(loop, partial(_finish, _last_tasks[loop]))
    task = loop.create_task(coroutine, name=name)
    if not task.done():  # an eager one may have ended already
        _last_tasks[loop].add(task)
        task.add_done_callback(_last_tasks[loop].discard)
    return task


async def _finish(tasks: set[asyncio.Task[None]]) -> None:
    while tasks:
        await asyncio.wait(tasks)
