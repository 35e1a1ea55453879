"""Handle: calls ``@on_event`` functions with the events of their topic, from a stored place.

Each handler reads the ledger by itself, so a slow one delays nobody. What it holds back is only
its own progress, which advances when all events up to a tick are handled or parked: after a crash
those since then come again.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from asgiref.sync import sync_to_async
from django.db import close_old_connections
from psycopg import Error

from ..backoff import Backoff
from ..conf import settings
from ..events import Event, dumps
from ..handlers import Handler
from ..ledger.reader import Expired, read_range
from ..ledger.rows import events_of
from ..ledger.ticks import Identity, Tick, latest_tick
from .connections import Connection
from .parking import HandlerStore, Parked

logger = logging.getLogger("django_pgnotify")

WAITING_PER_CALL = 10
"""Events that may be under way for each call that may run: a key whose turn waits, or that is
retried, must not hold up the others."""
RETRY_POLL_SECONDS = 2.0
"""Between looks for parked events that somebody asked to retry."""

Connect = Callable[[], Awaitable[Connection]]


@dataclass(slots=True)
class Stretch:
    """The events between two ticks of a handler's progress."""

    upto: Tick
    pending: int = 0
    read: bool = False


class HandlerRunner:
    """One handler at work."""

    def __init__(
        self,
        handler: Handler,
        store: HandlerStore,
        *,
        using: str,
        calls: asyncio.Semaphore,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.handler = handler
        self.news = asyncio.Event()
        self.stopping = asyncio.Event()
        self._store = store
        self._using = using
        self._calls = calls
        self._threads = threads
        self._waiting = asyncio.Semaphore(settings.HANDLER_CONCURRENCY * WAITING_PER_CALL)
        self._last_of_key: dict[str, asyncio.Task[None]] = {}
        self._stretches: deque[Stretch] = deque()
        self._is_async = inspect.iscoroutinefunction(handler.function)

    async def run(self, connection: Connection, begin: Tick, upto: Tick | None = None) -> None:
        """Handle what comes after `begin`: up to `upto`, or until stopped. Ends when every event
        that was begun is handled or parked; a retry that waits is left when stopping."""
        async with asyncio.TaskGroup() as tasks:
            done = begin
            while not self.stopping.is_set():
                self.news.clear()
                target = upto or await latest_tick(connection, self._store.schema)
                if target.number > done.number:
                    await self._read(connection, done, target, tasks)
                    done = target
                elif upto is not None:
                    return
                else:
                    await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(settings.POLL_SECONDS):
                await self.news.wait()

    async def _read(
        self, connection: Connection, after: Tick, upto: Tick, tasks: asyncio.TaskGroup
    ) -> None:
        stretch = Stretch(upto)
        self._stretches.append(stretch)
        topic = self.handler.topic
        try:
            async for row in read_range(
                connection, self._store.schema, after, upto, None, topic=topic
            ):
                for event in events_of(row, using=self._using):
                    await self._begin(event, stretch, tasks)
        except Expired:
            logger.error(
                "Handler %s: events after tick %s were trimmed before it handled them.",
                self.handler.name,
                after.number,
                extra={"action": "handler-expired"},
            )
        stretch.read = True
        await self._advance()

    async def _begin(self, event: Event, stretch: Stretch, tasks: asyncio.TaskGroup) -> None:
        await self._waiting.acquire()
        stretch.pending += 1
        key = dumps([event.model, event.pk])
        before = self._last_of_key.get(key)
        task = tasks.create_task(self._in_turn(event, key, before, stretch))
        self._last_of_key[key] = task

    async def _in_turn(
        self, event: Event, key: str, before: asyncio.Task[None] | None, stretch: Stretch
    ) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            finished = await self._attempts(event)
        finally:
            self._waiting.release()
            if self._last_of_key.get(key) is asyncio.current_task():
                del self._last_of_key[key]
        if finished:
            stretch.pending -= 1
            await self._advance()

    async def _attempts(self, event: Event) -> bool:
        """Call the handler until it succeeds or the event is parked; False if stopped before."""
        backoff = Backoff(
            settings.HANDLER_BACKOFF_SECONDS,
            settings.HANDLER_BACKOFF_SECONDS * 2**settings.HANDLER_ATTEMPTS,
        )
        for attempt in range(1, settings.HANDLER_ATTEMPTS + 1):
            if self.stopping.is_set():
                return False
            error = await self._attempt(event)
            if error is None:
                return True
            if attempt == settings.HANDLER_ATTEMPTS:
                await self._park(event, error, attempt)
                return True
            await self._pause(backoff.next_delay())
        return True

    async def _attempt(self, event: Event) -> str | None:
        """Call the handler once; the traceback if it raised."""
        async with self._calls:
            try:
                await call(self.handler, event, self._threads, is_async=self._is_async)
            except Exception:
                return traceback.format_exc()
        return None

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()

    async def _park(self, event: Event, error: str, attempts: int) -> None:
        logger.error(
            "Handler %s failed %s times on event %s: parked.\n%s",
            self.handler.name,
            attempts,
            event.id,
            error,
            extra={"action": "parked"},
        )
        await self._store.park(self.handler.name, event, error, attempts)

    async def retry(self, parked: Parked) -> None:
        """Try a parked event once more: then it is gone, or parked with the new traceback."""
        error = await self._attempt(parked.event)
        if error is None:
            await self._store.forget(parked)
        else:
            await self._store.park_again(parked, error)

    async def _advance(self) -> None:
        done: Tick | None = None
        while self._stretches and self._stretches[0].read and not self._stretches[0].pending:
            done = self._stretches.popleft().upto
        if done is not None:
            await self._store.save(self.handler.name, done)


async def call(
    handler: Handler, event: Event, threads: ThreadPoolExecutor, *, is_async: bool
) -> None:
    """Call an async handler natively, a sync one in a thread, and leave no connection behind."""
    if is_async:
        try:
            await handler.function(event)  # type: ignore[misc]
        finally:
            await sync_to_async(close_old_connections)()
    else:
        await sync_to_async(_call_sync, thread_sensitive=False, executor=threads)(
            handler, event
        )


def _call_sync(handler: Handler, event: Event) -> None:
    close_old_connections()
    try:
        handler.function(event)
    finally:
        close_old_connections()


class Handlers:
    """All handlers of one database, for as long as this process leads."""

    def __init__(self, handlers: Sequence[Handler], *, using: str, schema: str) -> None:
        self._handlers = handlers
        self._using = using
        self._schema = schema
        self._runners: dict[str, HandlerRunner] = {}

    @property
    def names(self) -> list[str]:
        """Names of the handlers, whose progress retention waits for."""
        return [handler.name for handler in self._handlers]

    def wake(self) -> None:
        """Say that a tick has been stored."""
        for runner in self._runners.values():
            runner.news.set()

    def stop(self) -> None:
        """Begin nothing more; ``run`` ends when the calls under way have."""
        for runner in self._runners.values():
            runner.stopping.set()
            runner.news.set()

    async def run(
        self, connect: Connect, identity: Identity, now: Tick, upto: Tick | None = None
    ) -> None:
        """Run every handler: up to `upto`, or until stopped. `now` is where a new one begins.

        Opens one connection a handler, and one that keeps their progress.
        """
        async with AsyncExitStack() as stack:
            keeper = await stack.enter_async_context(await connect())
            store = HandlerStore(keeper, self._schema, self._using, identity)
            threads = ThreadPoolExecutor(
                settings.HANDLER_CONCURRENCY, "django_pgnotify_handler"
            )
            stack.callback(threads.shutdown, wait=False)
            calls = asyncio.Semaphore(settings.HANDLER_CONCURRENCY)
            self._runners = {
                handler.name: HandlerRunner(
                    handler, store, using=self._using, calls=calls, threads=threads
                )
                for handler in self._handlers
            }
            retries = asyncio.create_task(self._retry_requested(store))
            try:
                async with asyncio.TaskGroup() as tasks:
                    for runner in self._runners.values():
                        begin = await store.begin(runner.handler, now)
                        connection = await stack.enter_async_context(await connect())
                        tasks.create_task(runner.run(connection, begin, upto))
            finally:
                retries.cancel()
                await asyncio.wait([retries])

    async def _retry_requested(self, store: HandlerStore) -> None:
        """Call handlers again with parked events for which somebody asked. Ends by cancellation."""
        while True:
            try:
                for parked in await store.requested(self._runners):
                    await self._runners[parked.handler].retry(parked)
            except Error as error:
                logger.warning("Parked events could not be retried: %s", error)
            await asyncio.sleep(RETRY_POLL_SECONDS)
