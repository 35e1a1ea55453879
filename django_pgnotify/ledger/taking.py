"""Taking: the next tick and, as long as they are few, its rows, in one round trip.

What the statement's own snapshot sees is what the tick sees: the rows that it returns are exactly
the tick's, without a second look. Many rows are left to ``read_range``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from .reader import BYTES_AT_ONCE, ROWS_AT_ONCE
from .rows import COLUMNS, LedgerRow
from .ticks import Tick, random_bits, store_by, tick_of

if TYPE_CHECKING:
    from psycopg import AsyncConnection

TICK_COLUMNS = 4
"""Columns before those of the row."""
# To plan the statement takes longer than to run it, so that a session plans it once. Then the plan
# must be right for any ledger, empty or of millions of rows: by the index, whatever that seems to
# cost. (A forbidden scan costs 10^10 before PostgreSQL 18, for which its compiler would set out.)
PLANNED_ONCE: LiteralString = """
    SELECT set_config('plan_cache_mode', 'force_generic_plan', false),
        set_config('enable_seqscan', 'off', false),
        set_config('enable_bitmapscan', 'off', false),
        set_config('jit', 'off', false)
"""


async def plan_once(connection: AsyncConnection[Any]) -> None:
    """Have the session plan each statement once, by index: for the one that calls take_tick()."""
    await connection.execute(PLANNED_ONCE)


async def take_tick(
    connection: AsyncConnection[Any], schema: str, previous: Tick
) -> tuple[Tick, list[LedgerRow] | None] | None:
    """Store the next tick and return it with its rows, by id; None if there is nothing new since
    `previous`. None for the rows says that they are too many: read the range.

    Returns when the tick is durable. Raises NotTheLatestTick if `previous` is not the latest.
    """
    parameters = {"n": previous.number, "previous": previous.snapshot, "bits": random_bits()}
    query = _query(schema, nothing_ran=previous.snapshot.endswith(":"))
    rows = await store_by(connection, query, parameters, prepare=True)
    tick = tick_of(rows[0][1:TICK_COLUMNS])
    if tick is None:
        return None
    if rows[0][TICK_COLUMNS] is None:
        return tick, None
    return tick, [LedgerRow.of(row[TICK_COLUMNS:]) for row in rows]


# ORDER BY and LIMIT, since only so does the planner go by the index on xid, whatever it believes
# about a table that empties all day. The snapshot as a scalar subquery, for the same reason.
AFTER: LiteralString = """
    (SELECT {columns} FROM {schema}.django_pgnotify_ledger
        WHERE xid >= pg_snapshot_xmax(%(previous)s::pg_snapshot)
            AND pg_visible_in_snapshot(xid, (SELECT s FROM now))
        ORDER BY xid LIMIT {limit})
"""
RUNNING: LiteralString = """
    UNION ALL
    (SELECT {columns} FROM {schema}.django_pgnotify_ledger
        WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip(%(previous)s::pg_snapshot)))
            AND pg_visible_in_snapshot(xid, (SELECT s FROM now))
        ORDER BY xid LIMIT {limit})
"""
# octet_length() of a stored text asks its header only.
TAKE: LiteralString = """
WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS s),
latest AS MATERIALIZED (
    SELECT number FROM {schema}.django_pgnotify_tick ORDER BY number DESC LIMIT 1),
found AS MATERIALIZED ({found}),
stored AS (
    INSERT INTO {schema}.django_pgnotify_tick (number, snapshot, bits)
    SELECT %(n)s::bigint + 1, (SELECT s FROM now), %(bits)s FROM latest
    WHERE latest.number = %(n)s AND EXISTS (SELECT FROM found)
    RETURNING number, snapshot::text, bits),
few AS (
    SELECT * FROM found WHERE (
        SELECT count(*) < {limit}
            AND sum(octet_length(changes) + coalesce(octet_length(context), 0)) <= {bytes}
        FROM found))
SELECT latest.number, stored.number, stored.snapshot, stored.bits, few.*
FROM latest LEFT JOIN stored ON true LEFT JOIN few ON stored.number IS NOT NULL
ORDER BY few.id
"""


@cache
def _query(schema: str, *, nothing_ran: bool) -> bytes:
    parts: dict[str, sql.Composable] = {
        "columns": sql.SQL(COLUMNS),
        "schema": sql.Identifier(schema),
        "limit": sql.Literal(ROWS_AT_ONCE + 1),
        "bytes": sql.Literal(BYTES_AT_ONCE),
    }
    parts["found"] = sql.SQL(AFTER if nothing_ran else AFTER + RUNNING).format(**parts)
    # Bytes, since psycopg remembers how it reads those.
    return sql.SQL(TAKE).format(**parts).as_bytes()
