"""Sending: one event loop's connection for statements, each in an autocommit of its own.

A layer message is not tied to Django's transaction, by design: it tells others what this
process does, and the reader of a committed change is `pglisten`.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from ..connecting import APPLICATION_NAME, connect

STATEMENT_SECONDS = 15.0
"""Seconds without an answer after which the connection is given up: a frozen server raises
nothing. Far above what a busy disk or a queue of notifiers costs."""

NOTIFICATIONS_AT_ONCE = 100
"""Notifications in one statement: 800 KB at most."""
NOTIFY: LiteralString = """
    SELECT pg_notify(pg_channel, payload)
    FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS sent (pg_channel, payload, place)
    ORDER BY place
"""

Parameters = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class _Notification:
    """One that waits to be sent."""

    pg_channel: str
    payload: str
    sent: asyncio.Future[None]


class Sender:
    """Runs statements on a connection that is opened on first use and rebuilt after a loss."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._notifications: deque[_Notification] = deque()
        self._flusher: asyncio.Task[None] | None = None

    async def notify(self, pg_channel: str, payload: str) -> None:
        """Send one notification, in order; what waits together goes in one statement. Fails, and
        is cancelled, as execute() is."""
        sent = asyncio.get_running_loop().create_future()
        self._notifications.append(_Notification(pg_channel, payload, sent))
        if self._flusher is None or self._flusher.done():
            # Not among the tasks: these are statements, and it only waits for them.
            self._flusher = asyncio.get_running_loop().create_task(self._flush())
        await asyncio.shield(sent)

    async def _flush(self) -> None:
        batch: list[_Notification] = []
        try:
            while batch := _taken(self._notifications):
                try:
                    names, payloads = [n.pg_channel for n in batch], [n.payload for n in batch]
                    await self.execute(NOTIFY, (names, payloads))
                except Exception as error:
                    _settle(batch, error)
                else:
                    _settle(batch, None)
        except asyncio.CancelledError:
            waiting = [*batch, *self._notifications]
            self._notifications.clear()
            _settle(waiting, psycopg.OperationalError("the connection was closed"))
            raise

    async def execute(
        self, query: LiteralString, parameters: Parameters = (), *, binary: bool = False
    ) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; OperationalError when the server is gone.

        A cancelled caller leaves the statement running to its end. `binary` is for large
        values of bytea, which as text are twice as long, and are decoded twice.
        """
        try:
            return await self._execute_once(query, parameters, binary)
        except psycopg.errors.AdminShutdown:
            # The server ended the session instead of running this. After any other error the
            # statement may have worked, and a message may arrive once at most.
            return await self._execute_once(query, parameters, binary)

    async def _execute_once(
        self, query: LiteralString, parameters: Parameters, binary: bool
    ) -> list[tuple[Any, ...]]:
        connection = await self._connected()
        statement: asyncio.Task[list[tuple[Any, ...]]]
        statement = self._spawn(_fetched(connection, query, parameters, binary))
        await asyncio.wait({statement}, timeout=STATEMENT_SECONDS)
        if not statement.done():
            self.give_up()
            raise psycopg.OperationalError(f"no answer within {STATEMENT_SECONDS} seconds")
        if (
            statement.cancelled()
        ):  # by give_up(); to the caller it must not look cancelled itself
            raise psycopg.OperationalError("the connection was given up")
        return statement.result()

    def give_up(self) -> None:
        """Leave the connection, which does not answer; the next statement opens a new one."""
        connection, self._connection = self._connection, None
        stuck, self._tasks = self._tasks, set()
        if connection is not None:
            self._spawn(_buried(connection, stuck))

    async def close(self) -> None:
        """End everything; a later execute() opens anew."""
        tasks, self._tasks = self._tasks, set()
        connection, self._connection = self._connection, None
        if self._flusher is not None:
            await _cancelled({self._flusher})
        await _cancelled(tasks)
        if connection is not None:
            await connection.close()

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        async with self._opening:
            if self._connection is not None and self._is_lost(self._connection):
                await self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection = await connect(
                    self._alias, application_name=f"{APPLICATION_NAME} layer send"
                )
            return self._connection

    def _is_lost(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        if connection.closed:
            return True
        # A server says nothing while nobody asks, except that it ends. To find out by failing
        # would lose a message, or send it twice when tried again.
        return not self._tasks and _has_something_to_read(connection.pgconn.socket)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a cancelled caller does not fetch it, and asyncio would complain


def _taken(waiting: deque[_Notification]) -> list[_Notification]:
    """Take from the left what may go in one statement: PostgreSQL makes one of two equal
    notifications of a transaction."""
    batch: list[_Notification] = []
    seen: set[tuple[str, str]] = set()
    while waiting and len(batch) < NOTIFICATIONS_AT_ONCE:
        identity = waiting[0].pg_channel, waiting[0].payload
        if identity in seen:
            break
        seen.add(identity)
        batch.append(waiting.popleft())
    return batch


def _settle(notifications: list[_Notification], error: Exception | None) -> None:
    for notification in notifications:
        if notification.sent.done():
            continue
        if error is None:
            notification.sent.set_result(None)
        else:
            notification.sent.set_exception(error)


def _has_something_to_read(descriptor: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


async def _fetched(
    connection: psycopg.AsyncConnection[Any],
    query: LiteralString,
    parameters: Parameters,
    binary: bool,
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(query, parameters, binary=binary)
    return await cursor.fetchall() if cursor.description else []


async def _buried(
    connection: psycopg.AsyncConnection[Any], stuck: set[asyncio.Task[Any]]
) -> None:
    try:
        await _cancelled(stuck)
    finally:
        await connection.close()


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
