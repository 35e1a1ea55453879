"""Retention: takes from the ledger what no replay, relay or handler will read any more.

By tick, never by row time: a transaction open for two hours commits rows that look old.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from .ticks import Tick

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    Connection = AsyncConnection[Any]

ROWS_PER_BATCH = 2000
"""Rows that one short transaction deletes, so that vacuum is never far behind."""

# The newest tick older than the retention that has been sent, and handled by all who are
# registered. What it sees is done with; what it does not see is what a replay after it reads.
LAST_DONE: LiteralString = """
    SELECT tick.number, tick.snapshot::text, tick.bits
    FROM {schema}.django_pgnotify_tick AS tick, {schema}.django_pgnotify_state AS state
    WHERE tick.at < clock_timestamp() - %(retention)s AND tick.number <= state.sent
        AND tick.number > state.trimmed
        AND tick.number <= coalesce((SELECT min(handler.tick)
            FROM {schema}.django_pgnotify_handler AS handler
            WHERE handler.name = ANY (%(handlers)s)), tick.number)
    ORDER BY tick.number DESC LIMIT 1
"""
MARK: LiteralString = """
    UPDATE {schema}.django_pgnotify_state SET trimmed = %(trimmed)s WHERE trimmed < %(trimmed)s
"""
# Each batch goes on at the last one's xid: the index still holds what those before deleted.
DELETE_ROWS: LiteralString = """
    WITH done AS (
        SELECT ctid FROM {schema}.django_pgnotify_ledger
        WHERE xid >= %(from)s::text::xid8 AND xid < pg_snapshot_xmax(%(snapshot)s::pg_snapshot)
            AND pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot)
        ORDER BY xid LIMIT %(rows)s),
    gone AS (
        DELETE FROM {schema}.django_pgnotify_ledger
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM done)) RETURNING xid)
    SELECT count(*), max(xid::text::numeric)::text FROM gone
"""
DELETE_TICKS: LiteralString = """
    DELETE FROM {schema}.django_pgnotify_tick WHERE number < %(number)s
"""


async def trim(
    connection: Connection,
    schema: str,
    *,
    retention: timedelta,
    handlers: Collection[str] = (),
) -> int:
    """Delete rows and ticks older than `retention`, and return how many rows.

    `handlers` are the names whose progress must be waited for. The mark goes first: a replay
    that looks at it after its rows knows that they were all there.
    """
    tick = await _last_done(connection, schema, retention, handlers)
    if tick is None:
        return 0
    mark = {"trimmed": tick.number - 1}
    await connection.execute(_in_schema(MARK, schema), mark)
    deleted = await _delete_rows(connection, schema, tick)
    await connection.execute(_in_schema(DELETE_TICKS, schema), {"number": tick.number})
    return deleted


async def ledger_bytes(connection: Connection, schema: str) -> int:
    """Size of the ledger with its indexes and large values."""
    name = sql.Identifier(schema, "django_pgnotify_ledger").as_string(connection)
    query = "SELECT pg_total_relation_size(%s::regclass)"
    row = await (await connection.execute(query, [name])).fetchone()
    return int(row[0]) if row else 0


async def give_back(connection: Connection, schema: str) -> int:
    """Give the pages that trimming has left empty back to the system, as far as they are at the
    end; return the size after it. Only the ledger's owner may (on 17 and newer, MAINTAIN will
    do): for others nothing happens."""
    await connection.execute(_in_schema(VACUUM, schema))
    return await ledger_bytes(connection, schema)


VACUUM: LiteralString = "VACUUM (TRUNCATE) {schema}.django_pgnotify_ledger"


async def _last_done(
    connection: Connection, schema: str, retention: timedelta, handlers: Collection[str]
) -> Tick | None:
    parameters = {"retention": retention, "handlers": list(handlers)}
    cursor = await connection.execute(_in_schema(LAST_DONE, schema), parameters)
    row = await cursor.fetchone()
    return None if row is None else Tick(number=row[0], snapshot=row[1], bits=row[2])


async def _delete_rows(connection: Connection, schema: str, tick: Tick) -> int:
    parameters = {"from": "0", "snapshot": tick.snapshot, "rows": ROWS_PER_BATCH}
    deleted = 0
    while True:
        query = _in_schema(DELETE_ROWS, schema)
        # Never prepared: see ledger/ticks.py.
        cursor = await connection.execute(query, parameters, prepare=False)
        count, last_xid = await cursor.fetchone() or (0, None)
        deleted += count
        if count < ROWS_PER_BATCH:
            return deleted
        parameters["from"] = last_xid


def _in_schema(query: LiteralString, schema: str) -> sql.Composed:
    return sql.SQL(query).format(schema=sql.Identifier(schema))
