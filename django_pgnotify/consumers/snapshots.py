"""Snapshots: a consumer's own rows, read at a known place in the row of events.

``snapshot()`` runs in a thread, in a REPEATABLE READ READ ONLY transaction on the thread's own
connection. The same transaction reads the latest tick and the ledger rows beyond it that it can
see: their events are in the rows already, and are left out when their ticks come. A client that
comes back before they have come is known by its position, which holds the ``pg_snapshot``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from django.db import connections, transaction
from django.db.models import Model, QuerySet

from ..backoff import Backoff
from ..events import Json, dumps
from ..exceptions import LedgerMissing, PgnotifyError
from ..ledger.install import schema_of_ledger
from ..ledger.positions import TOKEN_LENGTH, Look, Position
from ..ledger.ticks import Tick
from ..values import row_json, to_json_value
from .away import AWAY, is_away, watchful_connection
from .hidden import Hidden
from .hub import Hub
from .subscription import Subscription

logger = logging.getLogger(__name__)

T = TypeVar("T")

TICKS_IN_FLIGHT = 2
"""The latest tick that a snapshot sees, plus 1, may be younger than its tick and not stored yet;
plus 2 begins after that one is stored, hence after the snapshot, and sees all that it saw."""


class Failed(PgnotifyError):
    """A consumer's snapshot() has a mistake: the cause tells which."""


LATEST = """
    SELECT number, bits, snapshot::text, pg_current_snapshot()::text
    FROM {schema}.django_pgnotify_tick ORDER BY number DESC LIMIT 1
"""
# Rows that a snapshot sees and the tick `after` did not, and whether a tick `told` did.
SEEN = """
    SELECT id::text, pg_visible_in_snapshot(xid, %(told)s::pg_snapshot)
    FROM {schema}.django_pgnotify_ledger
    WHERE (xid >= pg_snapshot_xmax(%(after)s::pg_snapshot)
            OR xid = ANY (ARRAY(SELECT pg_snapshot_xip(%(after)s::pg_snapshot))))
        AND pg_visible_in_snapshot(xid, %(snapshot)s::pg_snapshot)
        AND (strpos(changes, '"templates":') > 0 OR strpos(changes, %(group)s) > 0)
"""


async def read(
    work: Callable[[Look], T], hub: Hub, subscription: Subscription, look: Look
) -> tuple[T, Look]:
    """What `work` reads in a thread, and the look that it began at. Waits for the database."""
    loop, backoff = asyncio.get_running_loop(), Backoff()
    while True:
        try:
            found = await loop.run_in_executor(hub.snapshot_threads, work, look)
        except AWAY as error:
            logger.warning(
                "can't read a snapshot of %r, tries again: %s",
                subscription.group,
                error,
                extra={"action": "snapshot_failed"},
            )
            await asyncio.sleep(backoff.next_delay())
        else:
            if look.epoch == hub.epoch:
                return found, look
        # A database that was away may have come back with another history.
        look = await hub.look(subscription)


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A snapshot and its place."""

    rows: list[str] | None
    """Each row as JSON text; None if the consumer gives no snapshot of this group."""
    position: Position
    """The latest tick that it sees, with the snapshot if that sees more."""
    hidden: Hidden
    """What it sees beyond the tick that the client's events begin at."""


def take(
    rows: Callable[[], Iterable[Any] | None],
    *,
    alias: str,
    group: str,
    epoch: str,
    after: Tick,
) -> Taken:
    """Call `rows` and read where it stands; `after` is the tick that the client's events begin at.

    Runs in a thread of its own, whose database connection it closes.
    """
    connection = watchful_connection(alias)
    try:
        with transaction.atomic(using=alias):
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            number, bits, told, snapshot = _query(alias, LATEST, {})[0]
            seen = _seen(alias, group, after=after.snapshot, told=told, snapshot=snapshot)
            texts = _texts_of(rows, alias, group)
    finally:
        connections.close_all()
    position = Position(epoch=epoch, tick=number, bits=bits)
    if not all(seen.values()):
        position = _within(position, snapshot)
    return Taken(rows=texts, position=position, hidden=_hidden(seen, number))


def seen_beyond(position: Position, *, alias: str, group: str, tick: Tick) -> Hidden:
    """What the client has seen in the snapshot of its position, beyond the position's tick.

    Runs in a thread of its own, whose database connection it closes.
    """
    told, snapshot = tick.snapshot, position.snapshot
    watchful_connection(alias)
    try:
        seen = _seen(alias, group, after=told, told=told, snapshot=snapshot or told)
    finally:
        connections.close_all()
    return _hidden(seen, tick.number)


def _seen(alias: str, group: str, **snapshots: str) -> dict[str, bool]:
    return dict(_query(alias, SEEN, {"group": f'"{group}"', **snapshots}))


def _hidden(seen: Iterable[str], number: int) -> Hidden:
    return Hidden(rows=frozenset(seen), until=number + TICKS_IN_FLIGHT)


def _within(position: Position, snapshot: str) -> Position:
    """The snapshot's place after the tick; the tick's where that many were writing that it would
    be too long: what was seen beyond is told again to a client that comes back so soon."""
    within = replace(position, snapshot=snapshot)
    return within if len(within.token) <= TOKEN_LENGTH else position


def _texts_of(
    rows: Callable[[], Iterable[Any] | None], alias: str, group: str
) -> list[str] | None:
    try:
        return _texts(rows(), alias)
    except Exception as error:
        if is_away(error):
            raise
        raise Failed(f"snapshot() of {group!r} failed") from error


def _texts(rows: Iterable[Any] | None, alias: str) -> list[str] | None:
    if rows is None:
        return None
    if inspect.iscoroutine(rows):
        rows.close()
        raise TypeError("snapshot() must be a plain function: it is called in a thread")
    model = None
    if isinstance(rows, QuerySet):
        # Not where a router would read: another database knows nothing of this transaction.
        rows, model = rows.using(alias), rows.model
    return [dumps(_row_json(model, row)) for row in rows]


def _row_json(model: type[Model] | None, row: Any) -> Json:
    if isinstance(row, dict):
        return row_json(model, row, "snapshot")
    return to_json_value(row, "snapshot")


def _query(alias: str, query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    connection = connections[alias]
    schema = schema_of_ledger(connection)
    if schema is None:
        raise LedgerMissing()
    with connection.cursor() as cursor:
        cursor.execute(query.format(schema=connection.ops.quote_name(schema)), parameters)
        return list(cursor.fetchall())
