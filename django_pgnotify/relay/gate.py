"""Gate: keeps writers from ringing while the relay looks by itself, and lets it sleep without
missing anybody. The writers' half is ``ledger/bell.py``.

    asleep    the gate is open: who commits rings, and the relay waits for the bell
    awake     the gate is shut: nobody rings, and the relay looks every few milliseconds
    dozing    the gate is open again, but a writer that found it shut may still be about to
              commit, silently: the relay goes on looking until each of those has ended

Each of those has an xid that was given before the gate was opened, since a writer tries the gate
after its first row. So the relay takes an xid after it has opened the gate, and sleeps when the
oldest running transaction is younger. (Not when none of those is left that were running: a
snapshot's list can be empty while a writer has its xid but is not in a snapshot yet.)

A session catches up behind a shut gate, and then dozes: its predecessor may have been lost while it
was awake, and its session may still shut the gate until the server ends it. A slow poll stays
behind all of it, for a stranger's transaction that stays open for hours and for a lost bell.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import Any, LiteralString, Self

from psycopg import errors, sql

from ..conf import settings
from ..connecting import aborted_after, connect_listener
from ..ledger.bell import gate_key
from ..ledger.ticks import Connection
from .leader import PINGS_PER_TIMEOUT, pin_timeouts
from .pace import MIN_PAUSE_SECONDS, Rate, next_pause

APPLICATION_NAME = "django_pgnotify gate"

SHUT_ROWS_PER_SECOND = 500.0
"""From here on looking is cheaper than being rung for: a row comes with each first pause."""
SHUT_RINGS = 8
"""Looks in a row during which the bell rang again: then writers already wait for each other's
NOTIFY, however few they are a second."""
OPEN_ROWS_PER_SECOND = 200.0
"""Below it the relay goes to sleep; far enough from the other, so that it does not toss and
turn."""
AWAKE_SECONDS = 0.5
"""What it stays awake at least: writers that no longer wait for each other need time to show
how fast they are."""
DOZE_SECONDS = 1.0
"""How long a dozing relay looks often. Who is still open then is found by the slow poll."""
DOZE_PAUSE_SECONDS = 0.005

CANCEL_AGAIN_SECONDS = 0.1
"""Between two cancellations of a request for the lock; one takes a connection."""

SHUT = sql.SQL("SELECT pg_advisory_lock({})")
OPEN: LiteralString = "SELECT pg_advisory_unlock_all()"
IS_OPEN: LiteralString = "SELECT pg_try_advisory_lock_shared(%s)"
NOW: LiteralString = "SELECT pg_current_xact_id()::text::numeric"
ALL_ENDED: LiteralString = (
    "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::numeric > %s::numeric"
)


class State(Enum):
    """See the module."""

    ASLEEP = "asleep"
    AWAKE = "awake"
    DOZING = "dozing"


class Gate:
    """The state, and the one connection that shuts the gate: who waits for a lock can't look."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self.connection = connection
        """Lost, it has opened the gate. The session ends with it, and the next one dozes."""
        self.state = State.DOZING
        self._key = gate_key(schema)
        self._rate = Rate()
        self._pause = MIN_PAUSE_SECONDS
        self._shutting: asyncio.Task[object] | None = None
        self._rings = 0
        self._shut_at = 0.0
        self._opened_at = 0.0
        self._opened_xid: int | None = None

    @classmethod
    async def open(cls, alias: str, schema: str) -> Self:
        """Connect. The server ends the session of a process that has frozen, so that its
        successor's writers ring again."""
        connection = await connect_listener(alias, application_name=APPLICATION_NAME)
        try:
            await pin_timeouts(connection)
            # A session that waits is not idle: its successor must not wait behind it for ever.
            milliseconds = str(int(settings.LEADER_TIMEOUT_SECONDS * 1000))
            await connection.execute(
                "SELECT set_config('lock_timeout', %s, false)", [milliseconds]
            )
        except BaseException:
            await connection.close()
            raise
        return cls(connection, schema)

    async def keep_alive(self) -> None:
        """Show the server that we live, until cancelled."""
        while True:
            await asyncio.sleep(settings.LEADER_TIMEOUT_SECONDS / PINGS_PER_TIMEOUT)
            if self._shutting is None or self._shutting.done():
                with suppress(errors.QueryCanceled):  # meant for a request that had just ended
                    await self._ask("SELECT 1")

    async def leave(self) -> None:
        """Take back a request for the lock, so that no backend waits for it after us."""
        await self._take_back()

    @asynccontextmanager
    async def kept_shut(self) -> AsyncIterator[None]:
        """Within, nobody rings: for a relay that reads on anyway, whatever is written."""
        self._shut(asyncio.get_running_loop().time())
        yield
        await self._reopen()

    async def wait(self, bell: asyncio.Event, *, rows: int, took: float) -> None:
        """Return when it is time to look again, after a look that found `rows` ledger rows and
        took `took` seconds; the bell was silent when it began."""
        now = asyncio.get_running_loop().time()
        self._rate.add(rows, now)
        self._rings = self._rings + 1 if bell.is_set() else 0
        if self.state is State.AWAKE:
            await self._wait_awake(rows, took, now)
        elif self._is_crowded(now):
            self._shut(now)
        elif self.state is State.DOZING:
            await self._wait_dozing(bell, rows, now)
        else:
            # Whatever the look has found: who committed behind it rings.
            await _rung(bell, settings.POLL_SECONDS)

    def _is_crowded(self, now: float) -> bool:
        return self._rings >= SHUT_RINGS or self._rate.per_second(now) >= SHUT_ROWS_PER_SECOND

    async def _wait_awake(self, rows: int, took: float, now: float) -> None:
        self._heed_shutting()
        is_slow = self._rate.per_second(now) < OPEN_ROWS_PER_SECOND
        if is_slow and now - self._shut_at > AWAKE_SECONDS:
            await self._reopen()
        else:
            self._pause = next_pause(self._pause, rows, took)
            await asyncio.sleep(self._pause)

    async def _wait_dozing(self, bell: asyncio.Event, rows: int, now: float) -> None:
        if self._opened_xid is None:
            await self._note_opened()
        if await self._all_have_ended():
            # Returns at once: the look that follows sees what the last of them committed.
            self.state = State.ASLEEP
        elif not rows:
            is_short = self._opened_xid is None or now - self._opened_at < DOZE_SECONDS
            await _rung(bell, DOZE_PAUSE_SECONDS if is_short else settings.POLL_SECONDS)

    def _shut(self, now: float) -> None:
        """Ask for the lock: from then on nobody rings. Writers that rang may hold it for long."""
        self.state = State.AWAKE
        self._shut_at = now
        self._rings = 0
        self._pause = MIN_PAUSE_SECONDS
        self._shutting = asyncio.create_task(self._request(), name="gate")
        # Whoever ends the session has an error of its own to tell.
        self._shutting.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _request(self) -> None:
        """The server gives up by itself, after its lock_timeout, unless it has frozen; then it is
        asked again."""
        is_shut = False
        while not is_shut:
            with (
                suppress(errors.LockNotAvailable),
                aborted_after(2 * settings.LEADER_TIMEOUT_SECONDS, self.connection),
            ):
                await self.connection.execute(SHUT.format(self._key))
                is_shut = True

    def _heed_shutting(self) -> None:
        """Raise what went wrong."""
        if self._shutting is not None and self._shutting.done():
            self._shutting.result()

    async def _reopen(self) -> None:
        """Open the gate, and begin to doze."""
        await self._take_back()
        try:
            await self._ask(OPEN)
        except errors.QueryCanceled:  # the request had just been granted
            await self._ask(OPEN)
        self.state = State.DOZING
        self._opened_xid = None

    async def _take_back(self) -> None:
        task, self._shutting = self._shutting, None
        if task is None:
            return
        while not task.done():
            # Again and again: the server forgets one that comes before its query has begun.
            await self.connection.cancel_safe(timeout=settings.LEADER_TIMEOUT_SECONDS)
            await asyncio.wait([task], timeout=CANCEL_AGAIN_SECONDS)
        with suppress(errors.QueryCanceled):
            await task

    async def _note_opened(self) -> None:
        """Take the xid, if the gate is open: a predecessor's session may shut it for a while."""
        if await self._ask(IS_OPEN, [self._key]):
            await self._ask(OPEN)
            self._opened_xid = await self._ask(NOW)
            self._opened_at = asyncio.get_running_loop().time()

    async def _all_have_ended(self) -> bool:
        return self._opened_xid is not None and await self._ask(ALL_ENDED, [self._opened_xid])

    async def _ask(self, query: LiteralString, parameters: Sequence[object] = ()) -> Any:
        """The one value of a short query; a server that has frozen raises nothing by itself."""
        with aborted_after(settings.LEADER_TIMEOUT_SECONDS, self.connection):
            cursor = await self.connection.execute(query, parameters)
            row = await cursor.fetchone()
        return row[0] if row else None


async def _rung(bell: asyncio.Event, seconds: float) -> None:
    """Wait for the bell, at most so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
