"""Runner: one ``@on_event`` handler at work, from its stored place on.

It reads the ledger by itself, so a slow handler delays nobody. What it holds back is only its own
progress, see ``reached.py``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

from ..backoff import Backoff
from ..conf import settings
from ..events import Event
from ..handlers import Handler
from ..ledger.reader import Expired, read_range
from ..ledger.rows import events_of
from ..ledger.ticks import Connection, Tick, latest_tick, tick_by_number
from .calls import Calls
from .order import Room, Turn
from .parking import HandlerStore, log_expired
from .reached import QUIET_SECONDS, Reached, Stretch
from .retries import Retries, Stopping

logger = logging.getLogger("django_pgnotify")

TICKS_AT_ONCE = 100
"""Ticks that are read together: progress is recorded that often while a handler catches up."""
KEEP_AHEAD_SECONDS = 5.0
"""Between two records of what is done while an earlier event is not: after a crash that much comes
again. The ids of up to 20,000 events are written each time."""
BACKOFF_MAX_SECONDS = 3600.0
"""The most between two attempts, unless HANDLER_BACKOFF_SECONDS is more: whoever allows a hundred
of them means days, not ages."""


class HandlerRunner:
    """One handler at work."""

    def __init__(
        self,
        handler: Handler,
        store: HandlerStore,
        calls: Calls,
        begin: Tick,
        *,
        using: str,
        still_leading: Callable[[], Awaitable[None]],
    ) -> None:
        self.handler = handler
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._store = store
        self._calls = calls
        self._begin_at = begin
        self._using = using
        self._still_leading = still_leading
        self._room = Room()
        self._order = calls.begin_order()
        self._reached = Reached(handler.name, store, calls, begin, self._stopping)
        self._retries = Retries(handler.name, store, calls, self._order, self._may_begin)

    def wake(self) -> None:
        """Say that a tick has been stored."""
        self._news.set()

    def stop(self) -> None:
        """Begin no further call."""
        for event in (self._stopping, self._news, self._retries.news):
            event.set()

    async def run(self, connection: Connection, upto: Tick | None = None) -> None:
        """Handle what there is: up to `upto`, or until stopped. Ends when every event
        that was begun is handled or parked; what waits for its turn or for a retry is left when
        stopping, and comes again."""
        async with asyncio.TaskGroup() as tasks:
            if upto is None:
                tasks.create_task(self._keep_ahead())
            tasks.create_task(self._retries.run(self._stopping, for_ever=upto is None))
            await self._read_all(connection, upto, tasks)
        await self._reached.save()

    async def _keep_ahead(self) -> None:
        """Now and then, and at once at a stop: one that hangs may let it never come to its end."""
        is_last = False
        while not is_last:
            await self._pause(KEEP_AHEAD_SECONDS)
            is_last = self._stopping.is_set()
            await self._reached.keep_ahead()

    async def _read_all(
        self, connection: Connection, upto: Tick | None, tasks: asyncio.TaskGroup
    ) -> None:
        done = self._begin_at
        while not self._stopping.is_set():
            self._news.clear()
            target = upto or await latest_tick(connection, self._store.schema)
            if target.number > done.number:
                target = await self._step(connection, done, target)
                await self._read(connection, done, target, tasks)
                done = target
            elif upto is not None:
                return
            else:
                self._reached.forget_rest()
                await self._reached.save(at_once=False)
                await self._wait_for_news()

    async def _step(self, connection: Connection, done: Tick, target: Tick) -> Tick:
        if target.number - done.number <= TICKS_AT_ONCE:
            return target
        number = done.number + TICKS_AT_ONCE
        return await tick_by_number(connection, self._store.schema, number) or target

    async def _wait_for_news(self) -> None:
        with suppress(TimeoutError):
            # Not all handlers at the same moment: the busy one would wait behind sixty.
            async with asyncio.timeout(QUIET_SECONDS * (1 - random.random() / 2)):
                await self._news.wait()

    async def _read(
        self, connection: Connection, after: Tick, upto: Tick, tasks: asyncio.TaskGroup
    ) -> None:
        stretch = self._reached.begin_stretch(upto)
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
                        if self._stopping.is_set():
                            return
        except Expired:
            # Unless it had handled everything: who empties a full ledger sets it forwards.
            if not await self._store.is_beyond(self.handler.name, after):
                log_expired(self.handler.name, after.number)
        await self._reached.end_stretch(stretch)

    async def _begin(
        self, event: Event, size: int, stretch: Stretch, tasks: asyncio.TaskGroup
    ) -> None:
        if self._reached.has_done(stretch, event.id):
            return
        await self._room.enter(size)
        stretch.pending += 1
        tasks.create_task(self._in_turn(event, self._order.join(event), size, stretch))

    async def _in_turn(self, event: Event, turn: Turn, size: int, stretch: Stretch) -> None:
        try:
            await self._attempts(event, turn)
        except Stopping:
            return
        finally:
            self._order.end(turn)
            self._room.leave(size)
        await self._reached.note_done(stretch, event.id)

    async def _attempts(self, event: Event, turn: Turn) -> None:
        """Call the handler until it succeeds or the event is parked. Raises Stopping."""
        backoff = Backoff(
            settings.HANDLER_BACKOFF_SECONDS,
            max(settings.HANDLER_BACKOFF_SECONDS, BACKOFF_MAX_SECONDS),
            rng=lambda: 0.0,  # nobody else waits for the same: no jitter, but what the docs say
        )
        for attempt in range(1, settings.HANDLER_ATTEMPTS + 1):
            error = await self._calls.outcome(event.id, event, turn, self._may_begin)
            if error is None:
                return
            if attempt == settings.HANDLER_ATTEMPTS:
                await self._park(event, error, attempt)
                return
            if event.model is None:
                # Messages have no key: one that fails holds up no other.
                self._order.end(turn)
            await self._pause(backoff.next_delay())

    async def _may_begin(self) -> None:
        """Return when a call may begin. Raises Stopping."""
        await self._still_leading()
        if self._stopping.is_set():
            raise Stopping

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

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
