"""Calling: one call of an ``@on_event`` function, whatever it does; no connection stays open."""

from __future__ import annotations

import asyncio
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
from .branches import Branches, branches

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


class OwnThread:
    """What the current task, and those that it begins, run by ``sync_to_async``, the ORM above all,
    runs here: others would wait for the same thread, and share its transactions."""

    def __init__(self) -> None:
        # Not by ``async with``: it ends where it began, and this may end after the call.
        self._context = ThreadSensitiveContext()
        SyncToAsync.thread_sensitive_context.set(self._context)
        # Who called us by async_to_sync lends us its thread, which is one for all.
        AsyncToSync.executors.current = None

    async def close_connections(self) -> None:
        """Close those of the thread, behind what it does now."""
        if self._context in SyncToAsync.context_to_thread_executor:  # else there is no thread
            await sync_to_async(connections.close_all)()

    async def end_behind(self, begun: Branches) -> None:
        """Let the branches that outlive their call come to their end, then end. They are not
        cancelled: a client that many calls share begins its tasks in the first one."""
        try:
            while begun:
                await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
                await self.close_connections()
        finally:
            self.end()

    def end(self) -> None:
        """Without waiting for it, which blocks the event loop in some versions of asgiref."""
        thread = SyncToAsync.context_to_thread_executor.pop(self._context, None)
        if thread is not None:
            thread.shutdown(wait=False)


_ending: set[asyncio.Task[None]] = set()
"""Threads that end behind branches. The event loop holds no task."""


async def call(handler: Handler, event: Event) -> str | None:
    """Call an async handler natively, a sync one in a thread; the traceback if it raised."""
    thread = OwnThread()
    with branches() as begun:
        error = await _outcome(handler, event, thread)
    if begun:
        ending = asyncio.create_task(thread.end_behind(begun))
        _ending.add(ending)
        ending.add_done_callback(_ending.discard)
    else:
        thread.end()
    return error


async def _outcome(handler: Handler, event: Event, thread: OwnThread) -> str | None:
    """In a task of its own, which nobody of ours cancels: SystemExit and CancelledError too are the
    handler's own failure."""
    try:
        try:
            return await _run(handler, event)
        finally:
            await thread.close_connections()
    except BaseException:
        return traceback.format_exc()


async def _run(handler: Handler, event: Event) -> str | None:
    if iscoroutinefunction(handler.function):
        await cast("Awaitable[object]", handler.function(event))
        return None
    # asgiref asks for a pool in its types only.
    run = sync_to_async(_call_sync, thread_sensitive=False, executor=cast("Any", THREADS))
    error, awaitable = await run(handler, event)
    if awaitable is not None:
        # An async function behind a decorator that hides it.
        await awaitable
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
