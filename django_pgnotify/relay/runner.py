"""Runner: one ``@on_event`` handler at work, from its stored place on.

It reads the ledger by itself, so a slow handler delays nobody. What it holds back is only its own
progress, which advances when all events up to a tick are handled or parked: after a crash those
since then come again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import aclosing, suppress
from dataclasses import dataclass

from ..backoff import Backoff
from ..conf import settings
from ..events import Event
from ..handlers import Handler
from ..ledger.reader import Expired, read_range
from ..ledger.rows import events_of
from ..ledger.ticks import Tick, latest_tick, tick_by_number
from .calling import call
from .connections import Connection
from .order import Order, Room, Turn
from .parking import HandlerStore, Parked

logger = logging.getLogger("django_pgnotify")

TICKS_AT_ONCE = 100
"""Ticks that are read together: progress is recorded that often while a handler catches up."""


class Stopping(Exception):
    """No call is begun any more."""


@dataclass(slots=True)
class Stretch:
    """The events between two ticks of a handler's progress."""

    upto: Tick
    pending: int = 0
    read: bool = False


class HandlerRunner:
    """One handler at work."""

    def __init__(self, handler: Handler, store: HandlerStore, *, using: str) -> None:
        self.handler = handler
        self.news = asyncio.Event()
        self.stopping = asyncio.Event()
        self._store = store
        self._using = using
        self._calls = asyncio.Semaphore(settings.HANDLER_CONCURRENCY)
        self._room = Room()
        self._order = Order()
        self._stretches: deque[Stretch] = deque()

    async def run(self, connection: Connection, begin: Tick, upto: Tick | None = None) -> None:
        """Handle what comes after `begin`: up to `upto`, or until stopped. Ends when every event
        that was begun is handled or parked; what waits for its turn or for a retry is left when
        stopping, and comes again."""
        async with asyncio.TaskGroup() as tasks:
            done = begin
            while not self.stopping.is_set():
                self.news.clear()
                target = upto or await latest_tick(connection, self._store.schema)
                if target.number > done.number:
                    target = await self._step(connection, done, target)
                    await self._read(connection, done, target, tasks)
                    done = target
                elif upto is not None:
                    return
                else:
                    await self._wait_for_news()

    async def _step(self, connection: Connection, done: Tick, target: Tick) -> Tick:
        if target.number - done.number <= TICKS_AT_ONCE:
            return target
        number = done.number + TICKS_AT_ONCE
        return await tick_by_number(connection, self._store.schema, number) or target

    async def _wait_for_news(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(settings.POLL_SECONDS):
                await self.news.wait()

    async def _read(
        self, connection: Connection, after: Tick, upto: Tick, tasks: asyncio.TaskGroup
    ) -> None:
        stretch = Stretch(upto)
        self._stretches.append(stretch)
        rows = read_range(
            connection,
            self._store.schema,
            after,
            upto,
            None,
            topic=self.handler.topic,
            hold=True,
        )
        try:
            async with aclosing(rows):
                async for row in rows:
                    events = events_of(row, using=self._using)
                    for event in events:
                        await self._begin(
                            event, len(row.changes) // len(events), stretch, tasks
                        )
                        if self.stopping.is_set():
                            return
        except Expired:
            logger.error(
                "Handler %s: events after tick %s were trimmed before it handled them.",
                self.handler.name,
                after.number,
                extra={"action": "handler-expired"},
            )
        stretch.read = True
        await self._advance()

    async def _begin(
        self, event: Event, size: int, stretch: Stretch, tasks: asyncio.TaskGroup
    ) -> None:
        await self._room.enter(size)
        stretch.pending += 1
        tasks.create_task(self._in_turn(event, self._order.join(event), size, stretch))

    async def _in_turn(self, event: Event, turn: Turn, size: int, stretch: Stretch) -> None:
        try:
            await turn.wait()
            await self._attempts(event, turn)
        except Stopping:
            return
        finally:
            self._order.end(turn)
            self._room.leave(size)
        stretch.pending -= 1
        await self._advance()

    async def _attempts(self, event: Event, turn: Turn) -> None:
        """Call the handler until it succeeds or the event is parked. Raises Stopping."""
        backoff = Backoff(
            settings.HANDLER_BACKOFF_SECONDS,
            settings.HANDLER_BACKOFF_SECONDS * 2**settings.HANDLER_ATTEMPTS,
            rng=lambda: 0.0,  # nobody else waits for the same: no jitter, but what the docs say
        )
        for attempt in range(1, settings.HANDLER_ATTEMPTS + 1):
            error = await self._attempt(event)
            if error is None:
                return
            if attempt == settings.HANDLER_ATTEMPTS:
                await self._park(event, error, attempt)
                return
            if event.model is None:
                # Messages have no key: one that fails holds up no other.
                self._order.end(turn)
            await self._pause(backoff.next_delay())

    async def _attempt(self, event: Event) -> str | None:
        """Call the handler once; the traceback if it raised. Raises Stopping."""
        async with self._calls:
            if self.stopping.is_set():
                raise Stopping
            return await call(self.handler, event)

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
        with suppress(Stopping):
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
