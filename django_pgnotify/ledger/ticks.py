"""Ticks: snapshots of the ledger in a row, and the identity of the history they belong to.

Everything here works on an autocommit connection to the primary, in the ledger's schema.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, LiteralString

from psycopg import AsyncConnection, errors, sql

from ..exceptions import PgnotifyError

Connection = AsyncConnection[Any]


class NotTheLatestTick(PgnotifyError):
    """Another session has stored a tick meanwhile, or a dump was restored: begin anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """One reading of the ledger: what this snapshot sees and the previous tick's did not."""

    number: int
    """Place in the row of ticks, from 0, without gaps."""
    snapshot: str
    """Text of a ``pg_snapshot``."""
    bits: int
    """64 random bits, signed: a tick of the same number after a crash differs in them."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which history of which database this is."""

    system: str
    """System identifier, given by initdb."""
    timeline: str
    """Changes with each promotion and point-in-time recovery."""
    database: str
    """Oid of the database."""
    generation: str
    """Given to the ledger when it was installed."""
    table: str
    """Oid of the table of ticks: restored into the database it came from, a dump brings back all
    the above, and makes the table anew. Upgrades, copies of the files and VACUUM FULL keep it."""

    @property
    def text(self) -> str:
        """For ``identity`` columns."""
        return ":".join(astuple(self))

    @property
    def epoch(self) -> str:
        """Short hash, as it stands in positions."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def continues(self, text: str) -> bool:
        """True if the history of this identity text goes on here, a new timeline or not."""
        there = text.split(":")
        here = list(astuple(self))
        return there[:1] + there[2:] == here[:1] + here[2:]


async def schema_of_ledger(connection: Connection) -> str | None:
    """Name of the schema that holds the ledger by the connection's search_path, else None."""
    query: LiteralString = (
        "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = to_regclass('django_pgnotify_ledger')"
    )
    row = await (await connection.execute(query)).fetchone()
    return row[0] if row else None


async def read_identity(connection: Connection, schema: str) -> Identity:
    """Read it anew: a timeline changes under an open connection when a standby is promoted."""
    query = _in_schema(
        "SELECT system_identifier::text,"
        # Not pg_control_checkpoint(): that tells the old timeline until the next checkpoint.
        " substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8),"
        " (SELECT oid::text FROM pg_database WHERE datname = current_database()),"
        " (SELECT generation::text FROM {schema}.django_pgnotify_state),"
        " to_regclass(quote_ident(%s) || '.django_pgnotify_tick')::oid::text"
        " FROM pg_control_system()",
        schema,
    )
    row = await (await connection.execute(query, [schema])).fetchone()
    return Identity(*row)  # type: ignore[misc]


async def read_epoch(connection: Connection, schema: str) -> str:
    """See Identity.epoch."""
    return (await read_identity(connection, schema)).epoch


async def latest_tick(connection: Connection, schema: str) -> Tick:
    """The tick stored last; migrate stores tick 0."""
    query = _in_schema(TICKS + " ORDER BY number DESC LIMIT 1", schema)
    row = await (await connection.execute(query)).fetchone()
    return _tick(row)


async def tick_by_number(connection: Connection, schema: str, number: int) -> Tick | None:
    """The tick, or None if it is not stored, not yet or no more."""
    query = _in_schema(TICKS + " WHERE number = %s", schema)
    row = await (await connection.execute(query, [number])).fetchone()
    return None if row is None else _tick(row)


async def store_tick_of_now(connection: Connection, schema: str, previous: Tick) -> Tick:
    """Store and return a tick that leaves out everything until now. Raises NotTheLatestTick."""
    parameters = {"n": previous.number, "bits": random_bits()}
    (row,) = await store_by(connection, _in_schema(STORE_NOW, schema), parameters)
    return _tick(row[1:])


def random_bits() -> int:
    """64 random bits as PostgreSQL's bigint holds them."""
    return secrets.randbits(64) - 2**63


TICKS: LiteralString = "SELECT number, snapshot::text, bits FROM {schema}.django_pgnotify_tick"
# Conditional on the latest number; two sessions that both find it so collide in the key.
STORE_NOW: LiteralString = """
WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS s),
latest AS MATERIALIZED (
    SELECT number FROM {schema}.django_pgnotify_tick ORDER BY number DESC LIMIT 1),
stored AS (
    INSERT INTO {schema}.django_pgnotify_tick (number, snapshot, bits)
    SELECT %(n)s::bigint + 1, s, %(bits)s FROM now, latest
    WHERE latest.number = %(n)s
    RETURNING number, snapshot::text, bits)
SELECT latest.number, stored.number, stored.snapshot, stored.bits
FROM latest LEFT JOIN stored ON true
"""


async def store_by(
    connection: Connection,
    query: sql.Composed | bytes,
    parameters: dict[str, Any],
    *,
    prepare: bool = False,
) -> list[tuple[Any, ...]]:
    """Run a query of this form: each row begins with the latest tick's number, and with number,
    snapshot and bits of the one that it stored, or nulls. Raises NotTheLatestTick."""
    try:
        cursor = await connection.execute(query, parameters, prepare=prepare)
        rows: list[tuple[Any, ...]] = await cursor.fetchall()
    except errors.UniqueViolation as error:
        raise NotTheLatestTick() from error
    if not rows or rows[0][0] != parameters["n"]:
        raise NotTheLatestTick()
    return rows


# Without a wait for the disk, on the connection whose next tick must wait for it.
MARK_SENT: LiteralString = """
    WITH lazily AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
    UPDATE {schema}.django_pgnotify_state SET sent = %(n)s FROM lazily WHERE sent < %(n)s
"""


async def mark_sent(connection: Connection, schema: str, number: int) -> None:
    """Record that the ticks up to this one have been sent. Never goes back; a crash may lose the
    record, and then they are sent again."""
    await connection.execute(_in_schema(MARK_SENT, schema), {"n": number})


def _in_schema(query: LiteralString, schema: str) -> sql.Composed:
    return sql.SQL(query).format(schema=sql.Identifier(schema))


def tick_of(values: Sequence[Any]) -> Tick | None:
    """The tick of these columns, None if there is none."""
    return None if values[0] is None else _tick(values)


def _tick(values: Any) -> Tick:
    number, snapshot, bits = values
    return Tick(number=number, snapshot=snapshot, bits=bits)
