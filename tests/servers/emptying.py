"""Emptying the tables after a test, in milliseconds.

Django's flush truncates, which makes files anew, and then sends ``post_migrate``: together a third
of a second for two databases, after more than a thousand tests. Here rows are deleted, with
triggers off, and the signal is sent only if a test has changed what it would set right.
"""

from __future__ import annotations

from typing import Any

import django.test
from django.core.management.sql import emit_post_migrate_signal
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

KEPT = {"django_content_type", "auth_permission"}
"""What ``post_migrate`` would fill again."""
# Not xmin of pg_class, which ANALYZE changes.
FINGERPRINT = """
    SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM (
        SELECT 'class ' || oid || relname || relnamespace FROM pg_class
            WHERE relkind <> 't' AND oid >= 16384
        UNION ALL SELECT 'function ' || oid || xmin FROM pg_proc WHERE oid >= 16384
        UNION ALL SELECT 'trigger ' || oid || xmin FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT 'comment ' || d::text FROM pg_description AS d WHERE objoid >= 16384
        UNION ALL SELECT 'declared ' || t::text FROM django_pgnotify_trigger AS t
        UNION ALL SELECT 'limit ' || max_bytes FROM django_pgnotify_state
        UNION ALL SELECT 'type ' || t::text FROM django_content_type AS t
        UNION ALL SELECT 'permission ' || p::text FROM auth_permission AS p
    ) AS lines (line)
"""

_right: dict[str, str] = {}
"""The fingerprint of each database as ``post_migrate`` has left it."""


def install() -> None:
    """Have every test that commits end so."""

    def teardown(case: Any) -> None:
        for alias in case._databases_names(include_mirrors=False):
            empty(connections[alias])

    django.test.TransactionTestCase._fixture_teardown = teardown  # type: ignore[attr-defined]


def empty(connection: BaseDatabaseWrapper) -> None:
    """Delete all rows that Django's flush would delete."""
    tables = connection.introspection.django_table_names(
        only_existing=True, include_views=False
    )
    deletes = [
        f"DELETE FROM {connection.ops.quote_name(table)};"
        for table in tables
        if table not in KEPT
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            f"BEGIN; SET LOCAL session_replication_role = replica; {' '.join(deletes)} COMMIT"
        )
    name = str(connection.settings_dict["NAME"])
    if _fingerprint(connection) != _right.get(name, ""):
        emit_post_migrate_signal(verbosity=0, interactive=False, db=connection.alias)
        _right[name] = _fingerprint(connection) or ""


def _fingerprint(connection: BaseDatabaseWrapper) -> str | None:
    try:
        with connection.cursor() as cursor:
            cursor.execute(FINGERPRINT)
            row = cursor.fetchone()
    except DatabaseError:  # a test has dropped the ledger
        return None
    return row and str(row[0])
