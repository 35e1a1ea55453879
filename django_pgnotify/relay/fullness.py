"""Fullness: what becomes of a ledger in which the triggers have stopped to write.

They stop at LEDGER_MAX_BYTES, which a relay that runs hardly ever sees. One that finds it so sends
what there is, empties the ledger, and stores a tick that no earlier position can be replayed over:
so every subscriber is told to read anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from datetime import datetime
from typing import LiteralString

from psycopg import errors, sql

from ..conf import settings
from ..ledger.ticks import Connection, NotTheLatestTick, Tick, latest_tick, random_bits
from .progress import Progress

logger = logging.getLogger("django_pgnotify")

HEARTBEATS_PER_LOOK = 2
"""Heartbeats between two looks: a relay without work is quiet, and a full ledger is rare."""

TELL_MAX_BYTES: LiteralString = """
    UPDATE {schema}.django_pgnotify_state SET max_bytes = {bytes} WHERE max_bytes <> {bytes}
"""
FULL_SINCE: LiteralString = "SELECT min(since) FROM {schema}.django_pgnotify_full"
HANDLED: LiteralString = """
    SELECT coalesce(min(tick), {number}) >= {number} FROM {schema}.django_pgnotify_handler
    WHERE name = ANY ({names})
"""
# One statement, because others use the connection too. TRUNCATE waits for open transactions that
# have written before the ledger was full; nobody writes any more, so hardly anybody waits for it.
EMPTY: LiteralString = """
DO $pgnotify$ BEGIN
    PERFORM set_config('lock_timeout', '1s', true);
    TRUNCATE {schema}.django_pgnotify_ledger;
    DELETE FROM {schema}.django_pgnotify_full;
    INSERT INTO {schema}.django_pgnotify_tick (number, snapshot, bits)
    VALUES ({number}, pg_current_snapshot(), {bits});
    DELETE FROM {schema}.django_pgnotify_tick WHERE number < {number};
    UPDATE {schema}.django_pgnotify_state SET sent = {number}, trimmed = {number} - 1;
    -- Who has handled everything has missed nothing.
    UPDATE {schema}.django_pgnotify_handler SET tick = {number} WHERE tick = {number} - 1;
END $pgnotify$
"""


class FullLedger:
    """Looks now and then whether the ledger is full, and empties it when all is sent."""

    def __init__(
        self, connection: Connection, schema: str, progress: Progress, handlers: Collection[str]
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._progress = progress
        self._handlers = list(handlers)
        self._next_look = 0.0
        self._found = 0.0

    async def emptied(self, tick: Tick) -> Tick | None:
        """Empty a full ledger whose latest tick is `tick`, and return the one that follows.

        None if it is not full, or if something in it is still to be sent or handled. Handlers
        are waited for RETENTION long: meanwhile no event is recorded.
        """
        now = time.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + HEARTBEATS_PER_LOOK * settings.HEARTBEAT_SECONDS
        since = await full_since(self._connection, self._schema)
        if since is None:
            self._found = 0.0
            return None
        if not self._found:
            self._found = now
            logger.error(
                "The ledger is full (LEDGER_MAX_BYTES = %s). No event was recorded since %s.",
                settings.LEDGER_MAX_BYTES,
                since,
                extra={"action": "ledger-full"},
            )
        waited = now - self._found > settings.RETENTION.total_seconds()
        if self._progress.sent.number < tick.number or not (
            waited or await self._handled(tick)
        ):
            return None
        return await self._empty(tick)

    async def _handled(self, tick: Tick) -> bool:
        query = sql.SQL(HANDLED).format(
            schema=sql.Identifier(self._schema), number=tick.number, names=self._handlers
        )
        row = await (await self._connection.execute(query)).fetchone()
        return row is not None and bool(row[0])

    async def _empty(self, tick: Tick) -> Tick | None:
        query = sql.SQL(EMPTY).format(
            schema=sql.Identifier(self._schema), number=tick.number + 1, bits=random_bits()
        )
        try:
            await self._connection.execute(query)
        except errors.LockNotAvailable:
            return None
        except errors.UniqueViolation as error:
            raise NotTheLatestTick() from error
        self._found = 0.0
        after = await latest_tick(self._connection, self._schema)
        self._progress.begin_at(after)
        logger.error(
            "The ledger is empty again, and events are recorded. Subscribers are told to read"
            " anew.",
            extra={"action": "ledger-emptied"},
        )
        return after


async def full_since(connection: Connection, schema: str) -> datetime | None:
    """When the triggers stopped to write; None if they write."""
    query = sql.SQL(FULL_SINCE).format(schema=sql.Identifier(schema))
    row = await (await connection.execute(query)).fetchone()
    return row[0] if row else None


async def tell_max_bytes(connection: Connection, schema: str) -> None:
    """Let the triggers know LEDGER_MAX_BYTES."""
    query = sql.SQL(TELL_MAX_BYTES).format(
        schema=sql.Identifier(schema), bytes=settings.LEDGER_MAX_BYTES
    )
    await connection.execute(query)
