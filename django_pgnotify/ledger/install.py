"""Install: the SQL objects of the ledger, made by the first migration, kept up to date later."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from .bell import RING, ring_sql

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

LEDGER_TABLE = "django_pgnotify_ledger"
TABLES = ("ledger", "tick", "state", "full", "trigger", "handler", "parked", "message")


@cache
def function_names() -> tuple[str, ...]:
    """Names of the functions that ``sql/objects.sql`` makes."""
    return tuple(sorted(set(re.findall(r"FUNCTION @schema@\.(\w+)", template()))))


@cache
def template() -> str:
    """The text of ``sql/objects.sql``; ``@schema@`` stands for the schema, ``@ring@`` for what
    rings its bell."""
    return (resources.files(__package__) / "sql" / "objects.sql").read_text()


@cache
def version() -> str:
    """Short hash of the SQL objects' text: what post_migrate compares."""
    return hashlib.sha256((template() + RING).encode()).hexdigest()[:16]


def schema_of_ledger(connection: BaseDatabaseWrapper) -> str | None:
    """Name of the schema that holds the ledger by the connection's search_path, else None."""
    return _value(
        connection,
        "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = to_regclass(%s)",
        LEDGER_TABLE,
    )


def schema_for_ledger(connection: BaseDatabaseWrapper) -> str:
    """Name of the schema that holds the ledger, or in which migrate would create it."""
    return (
        schema_of_ledger(connection)
        or _value(connection, "SELECT current_schema()")
        or "public"
    )


def installed_version(connection: BaseDatabaseWrapper, schema: str) -> str | None:
    """What the ledger's comment says of the objects' version."""
    quoted = f"{connection.ops.quote_name(schema)}.{LEDGER_TABLE}"
    return _value(connection, "SELECT obj_description(to_regclass(%s), 'pg_class')", quoted)


def has_begun(connection: BaseDatabaseWrapper, schema: str) -> bool:
    """False if a restore has left out what the tables begin with."""
    state, tick = (
        f"{connection.ops.quote_name(schema)}.django_pgnotify_{table}"
        for table in ("state", "tick")
    )
    query = f"SELECT 1 WHERE EXISTS (SELECT FROM {state}) AND EXISTS (SELECT FROM {tick})"
    return _value(connection, query) is not None


def install_sql(connection: BaseDatabaseWrapper, schema: str) -> str:
    """The complete idempotent SQL for one schema."""
    quoted = connection.ops.quote_name(schema)
    return (
        template().replace("@schema@", quoted).replace("@ring@", ring_sql(schema))
        + f"\nCOMMENT ON TABLE {quoted}.{LEDGER_TABLE} IS '{version()}';\n"
    )


def uninstall_sql(connection: BaseDatabaseWrapper, schema: str) -> str:
    """Drop every object of ours in the schema; the triggers must be gone before."""
    quoted = connection.ops.quote_name(schema)
    functions = ", ".join(f"'{name}'" for name in function_names())
    tables = ", ".join(f"{quoted}.django_pgnotify_{table}" for table in TABLES)
    return f"""
DO $do$
DECLARE
    item regprocedure;
BEGIN
    FOR item IN SELECT oid FROM pg_catalog.pg_proc
        WHERE pronamespace = {literal(quoted)}::regnamespace AND proname IN ({functions})
    LOOP
        EXECUTE 'DROP FUNCTION ' || item;
    END LOOP;
END $do$;
DROP TABLE IF EXISTS {tables};
"""


def literal(text: str) -> str:
    """The text as an SQL literal for DDL, which takes no parameters: ASCII, no ``%`` or ``$``."""
    plain = re.sub(
        r"[^A-Za-z0-9 _.,:;/{}()\[\]<>=+*\"-]",
        lambda match: "".join(f"\\U{ord(char):08X}" for char in match[0]),
        text,
    )
    return f"'{text}'" if plain == text else f"E'{plain}'"


def _value(connection: BaseDatabaseWrapper, sql: str, *params: str) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        row = cursor.fetchone()
    return row[0] if row else None
