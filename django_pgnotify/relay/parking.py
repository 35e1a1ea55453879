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
from ..ledger.ticks import Identity, Tick, tick_by_number
from .connections import Connection

logger = logging.getLogger("django_pgnotify")

PROGRESS: LiteralString = """
    SELECT tick, identity FROM {schema}.django_pgnotify_handler WHERE name = %s
"""
SAVE: LiteralString = """
    INSERT INTO {schema}.django_pgnotify_handler (name, tick, identity) VALUES (%s, %s, %s)
    ON CONFLICT (name) DO UPDATE SET tick = excluded.tick, identity = excluded.identity
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
    SELECT id, handler, event FROM {schema}.django_pgnotify_parked
    WHERE retry AND handler = ANY (%s) ORDER BY id
"""
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
    event: Event


class HandlerStore:
    """Progress and parked events, on one autocommit connection that all handlers share."""

    def __init__(
        self, connection: Connection, schema: str, using: str, identity: Identity
    ) -> None:
        self.schema = schema
        self._connection = connection
        self._using = using
        self._identity = identity
        self._lock = asyncio.Lock()

    async def register(self, handlers: Sequence[Handler], now: Tick) -> None:
        """Give each handler that has none its place, so that from now on the ledger keeps its
        events: `now` or the oldest retained tick. In a restored copy all begin at `now`, so that
        a copy repeats nothing."""
        for handler in handlers:
            row = await (await self._run(PROGRESS, handler.name)).fetchone()
            if row is None and handler.start == "oldest":
                await self.save(handler.name, await self._oldest(now))
            elif row is None or not self._identity.continues(row[1]):
                await self.save(handler.name, now)

    async def begin(self, handler: Handler, now: Tick) -> Tick:
        """Where a registered handler goes on."""
        row = await (await self._run(PROGRESS, handler.name)).fetchone()
        number = row[0] if row else now.number
        tick = await tick_by_number(self._connection, self.schema, number)
        if tick is None:
            logger.error(
                "Handler %s: events after tick %s were trimmed before it handled them.",
                handler.name,
                number,
                extra={"action": "handler-expired"},
            )
        return tick or await self._oldest(now)

    async def _oldest(self, now: Tick) -> Tick:
        row = await (await self._run(OLDEST)).fetchone()
        oldest = row and await tick_by_number(self._connection, self.schema, row[0])
        return oldest or now

    async def save(self, name: str, tick: Tick) -> None:
        """Record that everything up to the tick is handled or parked."""
        await self._run(SAVE, name, tick.number, self._identity.text)

    async def park(self, name: str, event: Event, error: str, attempts: int) -> None:
        """Keep an event that the handler gave up on."""
        await self._run(PARK, name, dumps(event.to_json()), self._storable(error), attempts)

    async def requested(self, names: Collection[str]) -> list[Parked]:
        """Parked events of these handlers that somebody asked to retry."""
        rows = await (await self._run(REQUESTED, list(names))).fetchall()
        return [
            Parked(
                id=row[0],
                handler=row[1],
                event=Event.from_json(loads(row[2]), using=self._using),
            )
            for row in rows
        ]

    async def forget(self, parked: Parked) -> None:
        """The retry succeeded."""
        await self._run(FORGET, parked.id)

    async def park_again(self, parked: Parked, error: str) -> None:
        """The retry failed."""
        await self._run(PARK_AGAIN, self._storable(error), parked.id)

    def _storable(self, text: str) -> str:
        """The text without what the database can't hold: else its event would come for ever."""
        utf8 = self._connection.info.parameter_status("server_encoding") == "UTF8"
        encoding = "utf-8" if utf8 else "ascii"
        return text.replace("\0", "").encode(encoding, "backslashreplace").decode(encoding)

    async def _run(self, query: LiteralString, *parameters: Any) -> AsyncCursor[Any]:
        statement = sql.SQL(query).format(schema=sql.Identifier(self.schema))
        async with self._lock:
            return await self._connection.execute(statement, parameters)
