"""Sending: one event loop's connection for statements, each in an autocommit of its own.

A layer message is not tied to Django's transaction, by design: it tells others what this
process does, and the reader of a committed change is `pglisten`.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Any, LiteralString, TypeAlias

import psycopg

from ..connecting import APPLICATION_NAME, connect
from ..ending import end
from .statements import NOTIFY, Parameters, Rows, Statement, fail, joined, succeed, taken

STATEMENT_SECONDS = 15.0
"""Seconds without an answer after which the connection is given up: a frozen server raises
nothing. Far above what a busy disk or a queue of notifiers costs."""

LAST_SECONDS = 1.0
"""For the statement that runs when everything is closed: nearly all take milliseconds."""

Link: TypeAlias = psycopg.AsyncConnection[Any]
Batch: TypeAlias = list[Statement]


class Sender:
    """Runs statements on a connection that is opened on first use and rebuilt after a loss.

    One task runs them one after the other, for as long as there are some: each change of tasks
    costs a turn of the event loop, and a message has few of them to spare.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._connection: Link | None = None
        self._waiting: deque[Statement] = deque()
        self._running: Batch = []
        self._worker: asyncio.Task[None] | None = None
        self._turn = object()
        """Another one for each worker that is started or given up."""
        self._burials: set[asyncio.Task[None]] = set()

    async def notify(self, pg_channel: str, payload: str) -> None:
        """Send one notification, in order; those that wait together go as one statement. Fails
        as execute() does."""
        await self.execute(NOTIFY, (pg_channel, payload))

    async def execute(
        self,
        query: LiteralString,
        parameters: Parameters = (),
        *,
        binary: bool = False,
        unwanted: Callable[[Rows], object] | None = None,
    ) -> Rows:
        """Run one statement and return its rows; OperationalError when the server is gone.

        A cancelled caller leaves the statement running to its end. With `unwanted` that gets the
        rows then, and a statement that has not begun is left out. `binary` is for large values of
        bytea, which as text are twice as long, and are decoded twice.
        """
        done: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self._enqueue(Statement(query, parameters, done, binary, unwanted))
        try:
            return await done
        except asyncio.CancelledError:
            if unwanted is not None and _has_rows(done):
                unwanted(done.result())  # they came in the same turn of the event loop
            raise

    def give_up(self, reason: str = "the connection was given up") -> None:
        """Leave the connection, which does not answer; the next statement opens a new one."""
        connection, worker, running = self._let_go(reason)
        fail(running, psycopg.OperationalError(reason))
        burial = asyncio.get_running_loop().create_task(_buried(connection, worker))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    async def close(self) -> None:
        """End everything; a later execute() opens anew."""
        reason = "the connection was closed"
        connection, worker, running = self._let_go(reason)
        try:
            if worker is not None:
                # Not cancelled at once, let alone twice: what it is about to get would be lost.
                await asyncio.wait({worker}, timeout=LAST_SECONDS)
        finally:
            fail(running, psycopg.OperationalError(reason))
            await _buried(connection, worker)
        if self._burials:
            await asyncio.wait(self._burials)

    def _let_go(self, reason: str) -> tuple[Link | None, asyncio.Task[None] | None, Batch]:
        """Begin anew: fail what waits, and give what is left of before."""
        left = self._connection, self._worker, self._running
        self._connection, self._worker, self._running = None, None, []
        self._turn = object()
        waiting, self._waiting = self._waiting, deque()
        fail(waiting, psycopg.OperationalError(reason))
        return left

    def _enqueue(self, statement: Statement) -> None:
        self._waiting.append(statement)
        if self._worker is None or self._worker.done():
            self._start()

    def _start(self) -> None:
        self._turn = turn = object()
        self._worker = asyncio.get_running_loop().create_task(self._work(turn))

    async def _work(self, turn: object) -> None:
        """Run what waits; it ends when nothing does, so that no loop closes upon it."""
        try:
            # A worker that was given up may be slow to end; another one has its place.
            while self._turn is turn and (batch := taken(self._waiting)):
                self._running = batch
                await self._attempt(batch, turn)
        except asyncio.CancelledError:
            # As all tasks are when a loop ends. Who says goodbye then must not wait for ever.
            if self._turn is turn and self._waiting:
                self._start()
            raise

    async def _attempt(self, batch: Batch, turn: object) -> None:
        reason = f"no answer within {STATEMENT_SECONDS} seconds"
        loop = asyncio.get_running_loop()
        patience = loop.call_later(STATEMENT_SECONDS, self.give_up, reason)
        try:
            succeed(batch, await self._run(joined(batch), turn))
        except asyncio.CancelledError:
            fail(batch, psycopg.OperationalError("the statement was cancelled"))
            raise
        except Exception as error:
            fail(batch, error)
        finally:
            patience.cancel()

    async def _run(self, statement: Statement, turn: object) -> Rows:
        try:
            return await _fetched(await self._connected(turn), statement)
        except psycopg.errors.AdminShutdown:
            # The server ended the session instead of running this. After any other error the
            # statement may have worked, and a message may arrive once at most.
            return await _fetched(await self._connected(turn), statement)

    async def _connected(self, turn: object) -> Link:
        kept = self._connection if self._turn is turn else None
        if kept is not None and not _is_lost(kept):
            return kept
        if kept is not None:
            await kept.close()
        connection = await connect(
            self._alias, application_name=f"{APPLICATION_NAME} layer send"
        )
        if self._turn is not turn:
            await connection.close()
            raise psycopg.OperationalError("the connection was closed meanwhile")
        self._connection = connection
        return connection


def _has_rows(done: asyncio.Future[Rows]) -> bool:
    return done.done() and not done.cancelled() and done.exception() is None


def _is_lost(connection: Link) -> bool:
    # A server says nothing while nobody asks, except that it ends. To find out by failing
    # would lose a message, or send it twice when tried again.
    return connection.closed or _has_something_to_read(connection.pgconn.socket)


def _has_something_to_read(descriptor: int) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


async def _fetched(connection: Link, statement: Statement) -> Rows:
    cursor = connection.cursor()
    try:
        await cursor.execute(statement.query, statement.parameters, binary=statement.binary)
    except asyncio.CancelledError:
        if cursor.pgresult is None:
            raise
        # The server was faster than the cancellation; a claim has rows that nobody else has.
    return await cursor.fetchall() if cursor.description else []


async def _buried(connection: Link | None, worker: asyncio.Task[None] | None) -> None:
    try:
        if worker is not None:
            await end({worker})
    finally:
        if connection is not None:
            await connection.close()
