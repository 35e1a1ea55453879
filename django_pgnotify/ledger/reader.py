"""Reader: the ledger rows between two ticks, which is a fixed set however often it is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Iterator
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from ..conf import MIB
from ..exceptions import PgnotifyError
from .ranges import SIZE, filters, parameters_of, rows_between
from .rows import COLUMNS, LedgerRow
from .ticks import Tick

if TYPE_CHECKING:
    from psycopg import AsyncConnection

ROWS_AT_ONCE = 1000
"""Ledger rows held at once: about half a megabyte of Python beside their JSON."""
BYTES_AT_ONCE = MIB
"""JSON of ledger rows held at once, but for the last row: it may be a chunk of 4 MiB, or one
event of 16. (A reader that looks ahead holds this twice.)"""
ROWS_PER_FETCH = 20
"""Where the size is not asked beforehand, because each row's text is searched for groups."""


class Expired(PgnotifyError):
    """The tick to read from has been trimmed. Read the state anew and go on from the latest."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ``pg_snapshot``, for asking in Python what PostgreSQL would answer."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """From PostgreSQL's text, ``xmin:xmax:xip,xip``."""
        xmin, xmax, running = text.split(":")
        xips = running.split(",") if running else ()
        return cls(int(xmin), int(xmax), frozenset(map(int, xips)))

    def sees(self, xid: int) -> bool:
        """The same as ``pg_visible_in_snapshot``."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)


async def read_range(
    connection: AsyncConnection[Any],
    schema: str,
    after: Tick,
    upto: Tick,
    groups: Collection[str] | None,
    *,
    topic: str | None = None,
    hold: bool = False,
) -> AsyncGenerator[LedgerRow, None]:
    """The rows that `upto` sees and `after` did not, by id. See read_batches()."""
    batches = read_batches(connection, schema, after, upto, groups, topic=topic, hold=hold)
    async with aclosing(batches):
        async for batch in batches:
            for row in batch:
                yield row


async def read_batches(
    connection: AsyncConnection[Any],
    schema: str,
    after: Tick,
    upto: Tick,
    groups: Collection[str] | None,
    *,
    topic: str | None = None,
    hold: bool = False,
    is_long: bool = False,
) -> AsyncGenerator[list[LedgerRow], None]:
    """The rows that `upto` sees and `after` did not, by id, as many at once as may be held.

    With `groups`, rows that can't concern one of them are left out as far as that is cheap;
    templated and control rows are always there. With `topic`, only its rows.

    More rows than ROWS_PER_FETCH, or than BYTES_AT_ONCE, are streamed in a transaction on this
    connection; close the iterator if you leave it early. For a reader that may stop for long,
    `hold` lets the server copy the rows first: an open transaction would keep vacuum from the
    whole database. Then leave early only to close the connection. `is_long` says that the range is
    known to be so long. Raises Expired, after the last row, if some may have been trimmed: what was
    read is then incomplete.
    """
    query = rows_between(schema, groups, topic)
    parameters = {**parameters_of(after, upto, groups), "topic": topic}
    # Most ranges are short, and a cursor costs four round trips more.
    short = None if is_long else await few_rows(connection, query, parameters)
    if short is not None:
        yield short
    else:
        async with nullcontext() if hold else connection.transaction():
            # Not psycopg's server-side cursor: cancelled while it closes, it warns for ever after.
            declare = HELD_CURSOR if hold else CURSOR
            # Before the cursor: after it, rows can only become fewer.
            are_small = await _are_small(connection, query, parameters, filters(groups))
            cursor = _sized(declare + ALL, query)
            await connection.execute(cursor, parameters, prepare=False)
            fetches = await _fetches(connection, query, parameters, filters(groups), are_small)
            while rows := await _fetch(connection, next(fetches)):
                yield list(map(LedgerRow.of, rows))
            await connection.execute(CLOSE)
    # In a later snapshot than the rows': an older one reads nothing after a TRUNCATE.
    await check_untrimmed(connection, schema, after)


async def few_rows(
    connection: AsyncConnection[Any], query: sql.Composed, parameters: dict[str, Any]
) -> list[LedgerRow] | None:
    """All rows, if they can be held at once."""
    rows = await _fetch(connection, _sized(SHORT, query), parameters)
    if not rows or len(rows) == rows[0][NUMBER] <= ROWS_PER_FETCH:
        return [LedgerRow.of(values[:NUMBER]) for values in rows]
    return None


async def _fetch(
    connection: AsyncConnection[Any],
    query: sql.Composed,
    parameters: dict[str, Any] | None = None,
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(query, parameters, prepare=False)
    rows: list[tuple[Any, ...]] = await cursor.fetchall()
    return rows


async def _are_small(
    connection: AsyncConnection[Any],
    query: sql.Composed,
    parameters: dict[str, Any],
    filters: bool,
) -> bool:
    """True if ROWS_AT_ONCE of the rows can be held at once, whichever they are."""
    if filters:
        return False
    ((largest,),) = await _fetch(connection, _sized(LARGEST, query), parameters)
    return (largest or 0) * ROWS_AT_ONCE <= BYTES_AT_ONCE


async def _fetches(
    connection: AsyncConnection[Any],
    query: sql.Composed,
    parameters: dict[str, Any],
    filters: bool,
    are_small: bool,
) -> Iterator[sql.Composed]:
    """One FETCH after the other, without end, each for what may be held at once."""
    numbers: Iterable[int] = ()
    if are_small:
        numbers = repeat(ROWS_AT_ONCE)
    elif not filters:
        sizes = await _fetch(connection, _sized(SIZES, query), parameters)
        numbers = [number for (number,) in sizes]
    return map(FETCH.format, chain(numbers, repeat(ROWS_PER_FETCH)))


CURSOR: LiteralString = "DECLARE django_pgnotify_range NO SCROLL CURSOR FOR "
HELD_CURSOR: LiteralString = "DECLARE django_pgnotify_range NO SCROLL CURSOR WITH HOLD FOR "
CLOSE = sql.SQL("CLOSE django_pgnotify_range")
ALL: LiteralString = "SELECT {columns} FROM ({range}) AS range ORDER BY id"
NUMBER = -1
"""Column of ``SHORT`` behind those of the row."""
# Each row with how many there are, up to one too many. Those that do not fit are left out.
SHORT: LiteralString = """
    SELECT {columns}, number FROM (
        SELECT *, count(*) OVER () AS number, sum({size}) OVER (ORDER BY id) - {size} AS before
        FROM ({range} ORDER BY id LIMIT {limit}) AS first) AS sized
    WHERE before < {bytes} ORDER BY id
"""
LARGEST: LiteralString = "SELECT max({size}) FROM ({range}) AS range"
# How many rows go together. It takes a sort more.
SIZES: LiteralString = """
    SELECT count(*) FROM (
        SELECT (row_number() OVER (ORDER BY id) - 1) / {rows} AS by_rows,
            sum({size}) OVER (ORDER BY id) / {bytes} AS by_bytes
        FROM ({range}) AS range) AS sized
    GROUP BY by_rows, by_bytes ORDER BY by_rows, by_bytes
"""
FETCH = sql.SQL("FETCH {} FROM django_pgnotify_range")


def _sized(query: LiteralString, ranged: sql.Composed) -> sql.Composed:
    return sql.SQL(query).format(
        range=ranged,
        columns=sql.SQL(COLUMNS),
        size=sql.SQL(SIZE),
        limit=ROWS_PER_FETCH + 1,
        rows=ROWS_AT_ONCE,
        bytes=BYTES_AT_ONCE,
    )


async def check_untrimmed(connection: AsyncConnection[Any], schema: str, after: Tick) -> None:
    query = sql.SQL("SELECT trimmed FROM {}.django_pgnotify_state")
    cursor = await connection.execute(query.format(sql.Identifier(schema)))
    row = await cursor.fetchone()
    if row is None or row[0] >= after.number:
        raise Expired()
