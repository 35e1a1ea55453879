"""Sending: one event loop's connection for statements, each in an autocommit of its own.

A layer message is not tied to Django's transaction, by design: it tells others what this
process does, and the reader of a committed change is `pglisten`.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(eq=False, slots=True)
class Left:
    """What a sender had until it began anew."""

    connection: Link | None
    worker: asyncio.Task[None] | None
    running: Batch


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
        self._left: list[Left] = []
        """What a close() that was cancelled has still to end."""
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

    def execute_next(
        self, query: LiteralString, parameters: Parameters
    ) -> asyncio.Future[Rows]:
        """Run a statement before all that wait, again if it is interrupted; never waits."""
        done: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self._waiting.appendleft(Statement(query, parameters, done, is_repeatable=True))
        self._ensure_worker()
        return done

    def give_up(self, reason: str = "the connection was given up") -> None:
        """Leave the connection, which does not answer; the next statement opens a new one."""
        left = self._let_go(reason)
        fail(left.running, psycopg.OperationalError(reason))
        burial = asyncio.get_running_loop().create_task(_buried(left))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    async def close(self) -> None:
        """End everything; a later execute() opens anew. After one that was cancelled another one
        does the rest."""
        reason = "the connection was closed"
        self._left.append(self._let_go(reason))
        while self._left:
            left = self._left[0]
            if left.worker is not None:
                # Not cancelled at once, let alone twice: what it is about to get would be lost.
                await asyncio.wait({left.worker}, timeout=LAST_SECONDS)
            fail(left.running, psycopg.OperationalError(reason))
            await _buried(left)
            if left in self._left:  # two may be at it
                self._left.remove(left)
        if self._burials:
            await asyncio.wait(self._burials)

    def _let_go(self, reason: str) -> Left:
        """Begin anew: fail what waits, and give what is left of before."""
        left = Left(self._connection, self._worker, self._running)
        self._connection, self._worker, self._running = None, None, []
        self._turn = object()
        waiting, self._waiting = self._waiting, deque()
        fail(waiting, psycopg.OperationalError(reason))
        return left

    def _enqueue(self, statement: Statement) -> None:
        self._waiting.append(statement)
        self._ensure_worker()

    def _ensure_worker(self) -> None:
        if self._worker is None or self._worker.done():
            self._turn = turn = object()
            self._worker = asyncio.get_running_loop().create_task(self._work(turn))
            self._worker.add_done_callback(lambda _: self._worker_ended(turn))

    def _worker_ended(self, turn: object) -> None:
        """Start another one for what came before it had ended: one that is cancelled, as all tasks
        are when a loop ends, perhaps before it began. Who says goodbye then must not wait for ever.
        """
        if self._turn is turn and self._waiting:
            self._ensure_worker()

    async def _work(self, turn: object) -> None:
        """Run what waits; it ends when nothing does, so that no loop closes upon it."""
        # A worker that was given up may be slow to end; another one has its place.
        while self._turn is turn and (batch := taken(self._waiting)):
            self._running = batch
            await self._attempt(batch, turn)

    async def _attempt(self, batch: Batch, turn: object) -> None:
        reason = f"no answer within {STATEMENT_SECONDS} seconds"
        loop = asyncio.get_running_loop()
        patience = loop.call_later(STATEMENT_SECONDS, self.give_up, reason)
        try:
            succeed(batch, await self._run(joined(batch), turn))
        except asyncio.CancelledError:
            if self._turn is turn:
                self._waiting.extendleft(one for one in batch if one.is_repeatable)
                batch = [one for one in batch if not one.is_repeatable]
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


async def _buried(left: Left) -> None:
    try:
        if left.worker is not None:
            await end({left.worker})
    finally:
        if left.connection is not None:
            await left.connection.close()
