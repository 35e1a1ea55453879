"""Parking: the durable side of handlers, their progress and the events that they gave up on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import AsyncCursor, sql

from ..events import Event, dumps, loads
from ..handlers import Handler
from ..ledger.ticks import Connection, Identity, Tick, tick_by_number

logger = logging.getLogger("django_pgnotify")

PROGRESS: LiteralString = """
    SELECT tick, identity, ahead FROM {schema}.django_pgnotify_handler WHERE name = %s
"""
# Only forwards in the same history: one that was frozen may come back behind its successor.
SAVE: LiteralString = """
    INSERT INTO {schema}.django_pgnotify_handler AS known (name, tick, identity)
    VALUES (%s, %s, %s)
    ON CONFLICT (name) DO UPDATE
    SET tick = excluded.tick, identity = excluded.identity,
        ahead = CASE WHEN %s THEN known.ahead ELSE '{{}}' END
    WHERE known.tick < excluded.tick OR known.identity <> excluded.identity
"""
KEEP_AHEAD: LiteralString = """
    UPDATE {schema}.django_pgnotify_handler SET ahead = %s WHERE name = %s AND tick = %s
"""
OLDEST: LiteralString = """
    SELECT min(number) FROM {schema}.django_pgnotify_tick, {schema}.django_pgnotify_state
    WHERE number > trimmed
"""
PARK: LiteralString = """
    INSERT INTO {schema}.django_pgnotify_parked (handler, event, traceback, attempts)
    VALUES (%s, %s, %s, %s)
"""
REQUESTED: LiteralString = """
    SELECT id, octet_length(event) FROM {schema}.django_pgnotify_parked
    WHERE retry AND handler = %s AND id <> ALL (%s) ORDER BY id LIMIT %s
"""
TEXT: LiteralString = (
    "SELECT event FROM {schema}.django_pgnotify_parked WHERE retry AND id = %s"
)
FORGET: LiteralString = "DELETE FROM {schema}.django_pgnotify_parked WHERE id = %s"
PARK_AGAIN: LiteralString = """
    UPDATE {schema}.django_pgnotify_parked
    SET traceback = %s, attempts = attempts + 1, retry = false WHERE id = %s
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parked:
    """A parked event that somebody asked to retry."""

    id: int
    handler: str
    size: int
    """Bytes of its JSON."""


def log_expired(name: str, number: int) -> None:
    """Say that a handler has missed events."""
    logger.error(
        "Handler %s: events after tick %s were trimmed before it handled them.",
        name,
        number,
        extra={"action": "handler-expired"},
    )


class HandlerStore:
    """Progress and parked events, on one autocommit connection that all handlers share."""

    def __init__(
        self, connection: Connection, schema: str, using: str, identity: Identity
    ) -> None:
        self.schema = schema
        self.identity = identity
        self._connection = connection
        self._using = using
        self._lock = asyncio.Lock()

    async def register(self, handlers: Sequence[Handler], now: Tick) -> None:
        """Give each handler that has none its place, so that from now on the ledger keeps its
        events: `now` or the oldest retained tick. In a restored copy all begin at `now`, so that
        a copy repeats nothing."""
        for handler in handlers:
            row = await (await self._run(PROGRESS, handler.name)).fetchone()
            if row is None and handler.start == "oldest":
                await self.save(handler.name, await self._oldest(now), keep_ahead=False)
            elif row is None or not self.identity.continues(row[1]):
                await self.save(handler.name, now, keep_ahead=False)

    async def begin(self, handler: Handler, now: Tick) -> tuple[Tick, Sequence[str]]:
        """Where a registered handler goes on, and what it has handled beyond."""
        row = await (await self._run(PROGRESS, handler.name)).fetchone()
        number, _, ahead = row or (now.number, None, ())
        tick = await tick_by_number(self._connection, self.schema, number)
        if tick is None:
            log_expired(handler.name, number)
            tick = await self._oldest(now)
            # What is done beyond it is kept beside it.
            await self.save(handler.name, tick, keep_ahead=True)
        return tick, ahead

    async def is_beyond(self, name: str, tick: Tick) -> bool:
        """True if the handler's stored place is beyond this tick."""
        row = await (await self._run(PROGRESS, name)).fetchone()
        return row is not None and bool(row[0] > tick.number)

    async def _oldest(self, now: Tick) -> Tick:
        row = await (await self._run(OLDEST)).fetchone()
        oldest = row and await tick_by_number(self._connection, self.schema, row[0])
        return oldest or now

    async def save(self, name: str, tick: Tick, *, keep_ahead: bool) -> None:
        """Record that everything up to the tick is handled or parked. Never goes back. To write
        what is done beyond it anew would be too much for each step."""
        await self._run(SAVE, name, tick.number, self.identity.text, keep_ahead)

    async def keep_ahead(self, name: str, tick: Tick, ids: Collection[str]) -> None:
        """Record what is handled beyond the tick, if the handler still stands there."""
        await self._run(KEEP_AHEAD, list(ids), name, tick.number)

    async def park(self, name: str, event: Event, error: str, attempts: int) -> None:
        """Keep an event that the handler gave up on."""
        await self._run(PARK, name, dumps(event.to_json()), self._storable(error), attempts)

    async def requested(
        self, name: str, except_ids: Collection[int], limit: int
    ) -> list[Parked]:
        """Parked events of a handler that somebody asked to retry, the oldest first."""
        rows = await (await self._run(REQUESTED, name, list(except_ids), limit)).fetchall()
        return [Parked(id=row[0], handler=name, size=row[1]) for row in rows]

    async def text_of(self, parked: Parked) -> str | None:
        """The event as JSON; None if it is not to be retried any more."""
        row = await (await self._run(TEXT, parked.id)).fetchone()
        return row and str(row[0])

    def event_of(self, text: str) -> Event:
        """Build it; whatever an error there may be if somebody has rewritten the row."""
        return Event.from_json(loads(text), using=self._using)

    async def forget(self, parked: Parked) -> None:
        """The retry succeeded."""
        await self._run(FORGET, parked.id)

    async def park_again(self, parked: Parked, error: str) -> None:
        """The retry failed."""
        await self._run(PARK_AGAIN, self._storable(error), parked.id)
        logger.error(
            "Handler %s failed again on parked event %s.\n%s",
            parked.handler,
            parked.id,
            error,
            extra={"action": "parked-again"},
        )

    def _storable(self, text: str) -> str:
        """The text without what the database can't hold: else its event would come for ever."""
        utf8 = self._connection.info.parameter_status("server_encoding") == "UTF8"
        encoding = "utf-8" if utf8 else "ascii"
        return text.replace("\0", "").encode(encoding, "backslashreplace").decode(encoding)

    async def _run(self, query: LiteralString, *parameters: Any) -> AsyncCursor[Any]:
        statement = sql.SQL(query).format(schema=sql.Identifier(self.schema))
        async with self._lock:
            return await self._connection.execute(statement, parameters)
