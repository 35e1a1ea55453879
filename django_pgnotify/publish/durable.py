"""Durable: one event from code as one ledger row of the current transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..events import Event, Json, dumps
from ..exceptions import LedgerMissing
from .context import quiet_cursor

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

APPEND = "pgnotify_append"
SIGNATURE = f"{APPEND}(text, text, text, text[])"
FIND_LEDGER = """
SELECT n.nspname, p.oid IS NOT DISTINCT FROM to_regprocedure(%(signature)s), count(*) OVER ()
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.proname = %(name)s AND has_function_privilege(p.oid, 'EXECUTE')
    AND has_schema_privilege(n.oid, 'USAGE')
    AND EXISTS (SELECT FROM pg_catalog.pg_class l
        WHERE l.relnamespace = n.oid AND l.relname = 'django_pgnotify_ledger')
ORDER BY 2 DESC
"""

_schemas: WeakKeyDictionary[object, str] = WeakKeyDictionary()
"""The ledger's schema by the driver's connection: looked up anew after a reconnect."""


def append(connection: BaseDatabaseWrapper, event: Event, groups: Sequence[str]) -> None:
    """Write the event to the ledger in the current transaction; id, time and context are the
    ledger's. Raises LedgerMissing while the transaction is still whole."""
    schema = connection.ops.quote_name(ledger_schema(connection))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {schema}.{APPEND}(%s, %s, %s, NULL)",
            [event.topic, event.model, dumps([_change(event, groups)])],
        )


def _change(event: Event, groups: Sequence[str]) -> dict[str, Json]:
    change: dict[str, Json] = {"kind": event.kind, "pk": event.pk}
    change |= {"truncated": True} if event.truncated else {"data": event.data}
    if event.kind == "update":
        change["changed"] = list(event.changed)
    return change | {"groups": list(groups)}


def ledger_schema(connection: BaseDatabaseWrapper, *, look_again: bool = False) -> str:
    """The schema with the ledger that this role may write: the one on the search_path, else the
    only one there is; raises LedgerMissing. ``look_again`` trusts no earlier look."""
    connection.ensure_connection()
    raw = connection.connection
    if look_again:
        _schemas.pop(raw, None)
    if raw not in _schemas:
        _schemas[raw] = _find(connection)
    return _schemas[raw]


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """True if an error would spoil what the caller has begun, by ``atomic()`` or by hand."""
    return connection.in_atomic_block or not connection.get_autocommit()


def _find(connection: BaseDatabaseWrapper) -> str:
    with quiet_cursor(connection) as cursor:
        cursor.execute(FIND_LEDGER, {"signature": SIGNATURE, "name": APPEND})
        found = cursor.fetchone()
    if found and (found[1] or found[2] == 1):
        return str(found[0])
    raise LedgerMissing(
        f"The database {connection.alias!r} has no ledger that its role may write. Run "
        f"'manage.py migrate django_pgnotify --database {connection.alias}', and GRANT EXECUTE "
        f"ON FUNCTION {APPEND} to a role that does not own it."
    )
