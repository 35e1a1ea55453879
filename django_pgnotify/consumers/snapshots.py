"""Snapshots: a consumer's own rows, read at a known place in the row of events.

``snapshot()`` runs in a thread, in a REPEATABLE READ READ ONLY transaction on the thread's own
connection. The same transaction reads the latest tick and the ledger rows beyond it that it can
see: their events are in the rows already, and are left out when their ticks come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.db import connections, transaction
from django.db.models import QuerySet

from ..events import dumps
from ..exceptions import LedgerMissing
from ..ledger.install import schema_of_ledger
from ..ledger.positions import Position
from ..ledger.ticks import SNAPSHOT_OF_NOTHING, Tick
from ..values import to_json_value
from .subscription import Hidden

TICKS_IN_FLIGHT = 2
"""The latest tick that a snapshot sees, plus 1, may be younger than its tick and not stored yet;
plus 2 begins after that one is stored, hence after the snapshot, and sees all that it saw."""

LATEST = "SELECT number, bits FROM {schema}.django_pgnotify_tick ORDER BY number DESC LIMIT 1"
SEEN = """
    SELECT id::text FROM {schema}.django_pgnotify_ledger
    WHERE (xid >= pg_snapshot_xmax(%(after)s::pg_snapshot)
            OR xid = ANY (ARRAY(SELECT pg_snapshot_xip(%(after)s::pg_snapshot))))
        AND (strpos(changes, '"truncate"') > 0 OR strpos(changes, %(group)s) > 0)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A snapshot and its place."""

    rows: list[str] | None
    """Each row as JSON text; None if the consumer gives no snapshot of this group."""
    position: Position
    """The latest tick that it sees."""
    hidden: Hidden
    """What it sees beyond."""


def take(
    rows: Callable[[], Iterable[Any] | None],
    *,
    alias: str,
    group: str,
    epoch: str,
    after: Tick | None,
) -> Taken:
    """Call `rows` and read where it stands. Ledger rows are told from the tick `after` on, or all.

    Runs in a thread of its own, whose database connection it closes.
    """
    connection = connections[alias]
    try:
        with transaction.atomic(using=alias):
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            number, bits = _query(alias, LATEST, {})[0]
            beyond = SNAPSHOT_OF_NOTHING if after is None else after.snapshot
            seen = _query(alias, SEEN, {"after": beyond, "group": f'"{group}"'})
            texts = _texts(rows(), alias)
    finally:
        connections.close_all()
    return Taken(
        rows=texts,
        position=Position(epoch=epoch, tick=number, bits=bits),
        hidden=Hidden(rows=frozenset(id for (id,) in seen), until=number + TICKS_IN_FLIGHT),
    )


def _texts(rows: Iterable[Any] | None, alias: str) -> list[str] | None:
    if rows is None:
        return None
    if isinstance(rows, QuerySet):
        # Not where a router would read: another database knows nothing of this transaction.
        rows = rows.using(alias)
    return [dumps(to_json_value(row, "snapshot")) for row in rows]


def _query(alias: str, query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    connection = connections[alias]
    schema = schema_of_ledger(connection)
    if schema is None:
        raise LedgerMissing()
    with connection.cursor() as cursor:
        cursor.execute(query.format(schema=connection.ops.quote_name(schema)), parameters)
        return list(cursor.fetchall())
