"""Epoch: where a leader goes on, by whether the history is still the one it was stored in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from ..conf import settings
from ..exceptions import PgnotifyError
from ..ledger.ticks import (
    Connection,
    Identity,
    Tick,
    latest_tick,
    read_identity,
    store_tick_of_now,
    tick_by_number,
)

logger = logging.getLogger("django_pgnotify")

HEARTBEATS_PER_WATCH = 2
"""Heartbeats between two looks at the identity: it is another one once in years."""

READ_STATE: LiteralString = "SELECT sent, identity FROM {schema}.django_pgnotify_state"
KEEP_IDENTITY: LiteralString = (
    "UPDATE {schema}.django_pgnotify_state SET identity = %(identity)s"
)
START_AT_NOW: LiteralString = """
    UPDATE {schema}.django_pgnotify_state
    SET identity = %(identity)s, sent = %(number)s, trimmed = %(number)s - 1
"""
# A restored row carries an xid of the server it came from. One that has not come here yet would
# pass for news on the day it does.
DELETE_FROM_THE_FUTURE: LiteralString = """
    DELETE FROM {schema}.django_pgnotify_ledger
    WHERE NOT pg_visible_in_snapshot(xid, pg_current_snapshot())
"""
# Asked for in the original, which does it.
FORGET_RETRIES: LiteralString = """
    UPDATE {schema}.django_pgnotify_parked SET retry = false WHERE retry
"""


class AnotherHistory(PgnotifyError):
    """A dump was restored over the ledger: what is known of its ticks is of no use."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a leader goes on."""

    identity: Identity
    tick: Tick
    """The tick that was sent last."""


async def find_start(connection: Connection, schema: str) -> Start:
    """Compare the identity of the stored state with the server's, and settle where to go on.

    A new timeline alone (a promoted standby) goes on from the stored place. Another system,
    database or table is restored: it starts at now, because what is restored must not repeat
    what the original has sent.
    """
    identity = await read_identity(connection, schema)
    cursor = await connection.execute(_in_schema(READ_STATE, schema))
    sent, known = await cursor.fetchone() or (0, None)
    if known is not None and not identity.continues(known):
        return Start(identity, await _start_at_now(connection, schema, identity))
    if known != identity.text:
        parameters = {"identity": identity.text}
        await connection.execute(_in_schema(KEEP_IDENTITY, schema), parameters)
    if known not in (None, identity.text):
        logger.warning(
            "The server has a new timeline: going on from tick %s.",
            sent,
            extra={"action": "new-timeline"},
        )
    tick = await tick_by_number(connection, schema, sent)
    return Start(identity, tick or await latest_tick(connection, schema))


async def watch_history(reader: Connection, schema: str, identity: Identity) -> None:
    """Raise AnotherHistory when it is no longer this one, until cancelled. A dump that was
    restored before anything happened has the very tick that a leader would go on from.

    By the reader, so that a lost connection is noticed before a large tick needs it."""
    while True:
        await asyncio.sleep(HEARTBEATS_PER_WATCH * settings.HEARTBEAT_SECONDS)
        if await read_identity(reader, schema) != identity:
            raise AnotherHistory()


async def unsent_ticks(connection: Connection, schema: str, after: Tick) -> AsyncIterator[Tick]:
    """The ticks that were stored and not known to be sent, in order."""
    number = after.number
    while (tick := await tick_by_number(connection, schema, number := number + 1)) is not None:
        yield tick


async def _start_at_now(connection: Connection, schema: str, identity: Identity) -> Tick:
    # Before the tick, so that it has seen all rows that are left.
    await connection.execute(_in_schema(DELETE_FROM_THE_FUTURE, schema))
    await connection.execute(_in_schema(FORGET_RETRIES, schema))
    tick = await store_tick_of_now(connection, schema, await latest_tick(connection, schema))
    parameters = {"identity": identity.text, "number": tick.number}
    await connection.execute(_in_schema(START_AT_NOW, schema), parameters)
    logger.warning(
        "The ledger was restored, or comes from another server or database: starting at now,"
        " tick %s.",
        tick.number,
        extra={"action": "restored-copy"},
    )
    return tick


def _in_schema(query: LiteralString, schema: str) -> sql.Composed:
    return sql.SQL(query).format(schema=sql.Identifier(schema))
