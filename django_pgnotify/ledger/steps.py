"""Steps: a long way from one tick to a later one in parts, each of which ends at a tick.

Who comes back after an hour gets somewhere even if the line is cut again on the way, holds no more
than one step at once, and between two steps others have their turn.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from .ranges import SIZE, concerning, parameters_of, rows_between
from .reader import ROWS_AT_ONCE, check_untrimmed, few_rows, read_batches
from .rows import LedgerRow
from .ticks import Tick, tick_of

if TYPE_CHECKING:
    from psycopg import AsyncConnection


async def read_step(
    connection: AsyncConnection[Any],
    schema: str,
    after: Tick,
    upto: Tick,
    groups: Collection[str] | None,
    *,
    max_bytes: int,
    is_first: bool,
) -> AsyncGenerator[tuple[Tick, list[LedgerRow]], None]:
    """The rows from `after` to some tick on the way to `upto`, by id, in batches: each comes with
    that tick, and there is one at least. See read_batches().

    A step has not much more than ROWS_AT_ONCE rows or `max_bytes` of JSON, unless a single tick
    has. Most ways are short: with `is_first`, all of it is looked at, which finds that out.
    """
    if is_first:
        query, parameters = rows_between(schema, groups), parameters_of(after, upto, groups)
        few = await few_rows(connection, query, parameters)
        if few is not None and sum(len(row.changes) for row in few) <= max_bytes:
            await check_untrimmed(connection, schema, after)
            yield upto, few
            return
    end = await _end(connection, schema, after, upto, groups, max_bytes) or upto
    yield end, []
    batches = read_batches(connection, schema, after, end, groups, is_long=True)
    async with aclosing(batches):
        async for batch in batches:
            yield end, batch


# In the order of the index on xid, so that nothing is read beyond the step. Rows of transactions
# that ran at `after` are not counted: they are few.
END: LiteralString = """
    WITH sized AS MATERIALIZED (
        SELECT xid, row_number() OVER before AS number, sum(size) OVER before AS bytes FROM (
            SELECT xid, {size} AS size FROM {schema}.django_pgnotify_ledger
            WHERE xid >= pg_snapshot_xmax(%(after)s::pg_snapshot)
                AND xid < pg_snapshot_xmax(%(upto)s::pg_snapshot) {concerns}
            ORDER BY xid LIMIT {rows}) AS first
        WINDOW before AS (ORDER BY xid ROWS UNBOUNDED PRECEDING)),
    filling AS MATERIALIZED (
        SELECT xid FROM sized WHERE number = {rows} OR bytes >= {bytes} ORDER BY number LIMIT 1)
    SELECT number, snapshot::text, bits FROM {schema}.django_pgnotify_tick, filling
    WHERE number > %(number)s AND pg_snapshot_xmax(snapshot) > filling.xid
    ORDER BY number LIMIT 1
"""


async def _end(
    connection: AsyncConnection[Any],
    schema: str,
    after: Tick,
    upto: Tick,
    groups: Collection[str] | None,
    max_bytes: int,
) -> Tick | None:
    """The first tick that may see the row which fills the step; None if all rows fit."""
    query = sql.SQL(END).format(
        size=sql.SQL(SIZE),
        schema=sql.Identifier(schema),
        concerns=concerning(groups),
        rows=ROWS_AT_ONCE,
        bytes=max_bytes,
    )
    parameters = {**parameters_of(after, upto, groups), "number": after.number}
    cursor = await connection.execute(query, parameters, prepare=False)
    row = await cursor.fetchone()
    return None if row is None else tick_of(row)
