"""Calling: one call of an ``@on_event`` function, whatever it does; no connection stays open."""

from __future__ import annotations

import inspect
import threading
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar, cast

from asgiref.sync import (
    AsyncToSync,
    SyncToAsync,
    ThreadSensitiveContext,
    iscoroutinefunction,
    sync_to_async,
)
from django.db import connections

from ..events import Event
from ..handlers import Handler

T = TypeVar("T")


class DaemonThreads(Executor):
    """A thread for each call. Not a pool: its threads would keep Django's connections open
    between calls, and one that hangs would keep the process from ending."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call the function in a new thread."""
        future: Future[T] = Future()

        def work() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        future.set_running_or_notify_cancel()
        threading.Thread(target=work, name="django_pgnotify handler", daemon=True).start()
        return future


THREADS = DaemonThreads()


async def call(handler: Handler, event: Event) -> str | None:
    """Call an async handler natively, a sync one in a thread; the traceback if it raised.

    In a task of its own, which nobody of ours cancels: SystemExit and CancelledError too are the
    handler's own failure.
    """
    try:
        if iscoroutinefunction(handler.function):
            await _finish(cast("Awaitable[object]", handler.function(event)))
        else:
            return await _call_in_thread(handler, event)
    except BaseException:
        return traceback.format_exc()
    return None


async def _finish(awaitable: Awaitable[object]) -> None:
    """Await it with a thread of its own for what it runs by ``sync_to_async``, the ORM above all:
    others would wait for the same thread, and share its transactions."""
    # Who called us by async_to_sync lends us its thread, which is one for all.
    AsyncToSync.executors.current = None
    context = ThreadSensitiveContext()
    async with context:
        try:
            await awaitable
        finally:
            if context in SyncToAsync.context_to_thread_executor:  # else it had no thread
                await sync_to_async(connections.close_all)()


async def _call_in_thread(handler: Handler, event: Event) -> str | None:
    # asgiref asks for a pool in its types only.
    run = sync_to_async(_call_sync, thread_sensitive=False, executor=cast("Any", THREADS))
    error, awaitable = await run(handler, event)
    if awaitable is not None:
        # An async function behind a decorator that hides it.
        await _finish(awaitable)
    return error


def _call_sync(handler: Handler, event: Event) -> tuple[str | None, Any]:
    # No exception leaves the thread: a future can't carry StopIteration.
    try:
        result = handler.function(event)
        return None, result if inspect.isawaitable(result) else None
    except BaseException:
        return traceback.format_exc(), None
    finally:
        connections.close_all()
