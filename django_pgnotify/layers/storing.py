"""Storing: the rows of ``django_pgnotify_message``, for what does not fit a NOTIFY.

Two kinds of rows. One without a name is the body of a large message: notifications refer to
it, and it is left to expire, since nobody knows how many read it. One with a name waits for a
worker: a plain name ("thumbnails") belongs to no process, exactly one of them may have the
message, and none need run yet. NOTIFY can't do that (every listener hears it), a row can:
whoever deletes it has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg

from ..exceptions import LedgerMissing
from .sending import Sender
from .statements import Parameters, Rows

# One round trip. A transaction that writes and notifies holds a cluster-wide lock while its WAL is
# flushed; this one writes to an unlogged table only, hence has no WAL to wait for.
STORE_AND_NOTIFY: LiteralString = """
    WITH stored AS (
        INSERT INTO django_pgnotify_message (channel, body, expires_at)
        VALUES (NULL, %(body)s, now() + %(expiry)s) RETURNING id)
    SELECT pg_notify(%(pg_channel)s, %(head)s || id) FROM stored
"""
FETCH: LiteralString = """
    SELECT body FROM django_pgnotify_message
    WHERE id = %s AND channel IS NULL AND expires_at > now()
"""
# Two senders at once may pass the capacity by one; the contract allows it, a lock costs more.
ENQUEUE: LiteralString = """
    INSERT INTO django_pgnotify_message (channel, body, expires_at)
    SELECT %(name)s, %(body)s, now() + %(expiry)s
    WHERE %(capacity)s > (
        SELECT count(*) FROM (
            SELECT FROM django_pgnotify_message
            WHERE channel = %(name)s AND expires_at > now() LIMIT %(capacity)s
        ) AS waiting
    )
    RETURNING id
"""
CLAIM: LiteralString = """
    DELETE FROM django_pgnotify_message
    WHERE id = (
        SELECT id FROM django_pgnotify_message
        WHERE channel = %s AND expires_at > now()
        ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, channel, body, expires_at
"""
# Tried again where the first try may have worked.
GIVE_BACK: LiteralString = """
    INSERT INTO django_pgnotify_message (id, channel, body, expires_at)
    OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO NOTHING
"""
# A name holds no colon, a prefix may.
FLUSH: LiteralString = """
    DELETE FROM django_pgnotify_message WHERE regexp_replace(channel, ':[^:]*$', '') = %s
"""
SWEEP: LiteralString = """
    DELETE FROM django_pgnotify_message
    WHERE id IN (
        SELECT id FROM django_pgnotify_message
        WHERE expires_at <= now() LIMIT %s FOR UPDATE SKIP LOCKED
    )
"""

SWEEP_EVERY = 100
"""Rows that a process inserts between two sweeps."""
SWEEP_ROWS = 500
"""Rows that a sweep deletes at most: five times what came in, so that it always catches up."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A row that this process has deleted, hence owns."""

    row: int
    name: str
    body: bytes
    expires_at: datetime


class Sweeping:
    """Counts the inserts of one layer, over all its event loops."""

    def __init__(self) -> None:
        self._inserts = 0

    def is_due(self) -> bool:
        """Count one insert; say whether it is this one's turn to sweep. The first one's is."""
        due = self._inserts % SWEEP_EVERY == 0
        self._inserts += 1
        return due


class Store:
    """The table, seen through one event loop's connection. LedgerMissing if it is not there."""

    def __init__(
        self, sender: Sender, *, prefix: str, expiry: float, sweeping: Sweeping
    ) -> None:
        self._sender = sender
        self._prefix = prefix
        self._expiry = timedelta(seconds=expiry)
        self._sweeping = sweeping

    async def store_and_notify(self, pg_channel: str, head: str, body: str) -> None:
        """Keep a large body for the time of its expiry, and send `head` with its row's id."""
        values = {
            "pg_channel": pg_channel,
            "head": head,
            "body": body.encode("ascii"),
            "expiry": self._expiry,
        }
        await self._insert(STORE_AND_NOTIFY, values)

    async def fetch(self, row: int) -> str | None:
        """Return a large body, None if it has expired or never was."""
        with _table_expected():
            rows = await self._sender.execute(FETCH, (row,), binary=True)
        return rows[0][0].decode("ascii", "replace") if rows else None

    async def enqueue(self, name: str, body: str, capacity: int) -> bool:
        """Let a message wait for whoever claims it; False if `capacity` of them wait."""
        values = {
            "name": self._stored_name(name),
            "body": body.encode("ascii"),
            "expiry": self._expiry,
            "capacity": capacity,
        }
        return bool(await self._insert(ENQUEUE, values))

    async def claim(self, name: str, *, unwanted: Callable[[Claim], None]) -> Claim | None:
        """Take the oldest message that waits for `name`; nobody else gets it. Where the caller
        is cancelled meanwhile, `unwanted` gets it."""

        def leave(rows: Rows) -> None:
            if (claim := _claimed(rows)) is not None:
                unwanted(claim)

        with _table_expected():
            parameters = (self._stored_name(name),)
            return _claimed(await self._sender.execute(CLAIM, parameters, unwanted=leave))

    def give_back(self, claim: Claim) -> asyncio.Future[Rows]:
        """Undo a claim, before anything else is done; the message has its old place in the order
        again."""
        values = (claim.row, claim.name, claim.body, claim.expires_at)
        return self._sender.execute_next(GIVE_BACK, values)

    async def flush(self) -> None:
        """Delete what waits for any name of this prefix."""
        with _table_expected():
            await self._sender.execute(FLUSH, (self._prefix,))

    async def _insert(self, query: LiteralString, values: Parameters) -> list[tuple[Any, ...]]:
        with _table_expected():
            rows = await self._sender.execute(query, values)
            if self._sweeping.is_due():
                await self._sender.execute(SWEEP, (SWEEP_ROWS,))
        return rows

    def _stored_name(self, name: str) -> str:
        return f"{self._prefix}:{name}"


def _claimed(rows: Rows) -> Claim | None:
    if not rows:
        return None
    row, stored_name, body, expires_at = rows[0]
    return Claim(row=row, name=stored_name, body=body, expires_at=expires_at)


@contextmanager
def _table_expected() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise LedgerMissing(
            "The table django_pgnotify_message is not in this database."
            " Run `manage.py migrate django_pgnotify`."
        ) from error
