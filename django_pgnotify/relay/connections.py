"""Connections: what makes a server unfit for the relay."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql

from ..exceptions import LedgerMissing, ListenerRefused
from ..ledger.ticks import Connection, schema_of_ledger

OLDEST_SERVER = 150000
TABLES: dict[LiteralString, LiteralString] = {
    "django_pgnotify_ledger": "SELECT, DELETE, TRUNCATE",
    "django_pgnotify_tick": "SELECT, INSERT, DELETE",
    "django_pgnotify_state": "SELECT, UPDATE",
    "django_pgnotify_full": "SELECT, DELETE",
    "django_pgnotify_handler": "SELECT, INSERT, UPDATE",
    "django_pgnotify_parked": "SELECT, INSERT, UPDATE, DELETE",
}
"""What the relay does with each table."""
LATER_COLUMNS = (("django_pgnotify_handler", "ahead"),)
"""Those that tables have got since: a ledger without them waits for ``migrate``. Its version is not
compared, since what an upgrade adds must not end the code before it."""
HAS_COLUMN: LiteralString = """
    SELECT EXISTS (SELECT FROM pg_attribute
        WHERE attrelid = to_regclass(%s) AND attname = %s AND NOT attisdropped)
"""


async def check(connection: Connection) -> str:
    """Return the ledger's schema, or raise what makes this server, database or role unfit."""
    await check_server(connection)
    schema = await check_ledger(connection)
    await check_privileges(connection, schema)
    await check_has_begun(connection, schema)
    return schema


async def check_server(connection: Connection) -> str:
    """Describe the server, or refuse one that is too old or a replica."""
    version = connection.info.server_version
    if version < OLDEST_SERVER:
        raise ListenerRefused(
            f"The server is PostgreSQL {version // 10000}; django_pgnotify needs 15 or newer."
        )
    query = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'"
    in_recovery, read_only = await (await connection.execute(query)).fetchone() or (True, True)
    if in_recovery:
        raise ListenerRefused(
            f"{place(connection)} is a replica, where LISTEN is not possible and snapshots are"
            " not reliable. Connect to the primary: set PGNOTIFY['LISTENER']."
        )
    if read_only:
        raise ListenerRefused(
            f"{place(connection)} is read-only (default_transaction_read_only is on), so no tick"
            " can be stored. Turn it off for the server, the database or this role."
        )
    return f"PostgreSQL {connection.info.parameter_status('server_version')}, primary"


async def check_ledger(connection: Connection) -> str:
    """Return the ledger's schema, or refuse a database without one, or with an older one."""
    schema = await schema_of_ledger(connection)
    if schema is None:
        raise LedgerMissing(
            f"The ledger is not installed in {place(connection)}, or not in the listener's"
            " search_path. Run `manage.py migrate django_pgnotify`."
        )
    for table, column in LATER_COLUMNS:
        name = sql.Identifier(schema, table).as_string()
        row = await (await connection.execute(HAS_COLUMN, [name, column])).fetchone()
        if row is None or not row[0]:
            raise ListenerRefused(
                f"The ledger in {place(connection)} is of an earlier version: {name} has no"
                f" column {column!r}. Run `manage.py migrate`."
            )
    return schema


async def check_privileges(connection: Connection, schema: str) -> None:
    """Refuse a role that may not do the relay's work."""
    missing: list[str] = []
    for table, privileges in TABLES.items():
        name = sql.Identifier(schema, table).as_string()
        for privilege in privileges.split(", "):
            query = "SELECT has_schema_privilege(%s, 'USAGE') AND has_table_privilege(%s, %s)"
            cursor = await connection.execute(query, [schema, name, privilege])
            row = await cursor.fetchone()
            if row is None or not row[0]:
                missing.append(f"GRANT {privilege} ON {name} TO {connection.info.user};")
    if missing:
        raise ListenerRefused(
            f"The role {connection.info.user!r} lacks privileges in {place(connection)}. As the"
            f" owner, run: GRANT USAGE ON SCHEMA {quoted(schema)} TO {connection.info.user}; "
            + " ".join(missing)
        )


async def check_has_begun(connection: Connection, schema: str) -> None:
    """Refuse a ledger whose tables a restore has left empty."""
    for table in ("django_pgnotify_state", "django_pgnotify_tick"):
        name = sql.Identifier(schema, table)
        query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(name)
        row = await (await connection.execute(query)).fetchone()
        if row is None or not row[0]:
            raise ListenerRefused(
                f"{name.as_string()} in {place(connection)} is empty, as after a restore without"
                " its data. Run `manage.py migrate`."
            )


def place(connection: Connection) -> str:
    """Name the database and server for a message, without secrets."""
    info = connection.info
    return f"database {info.dbname!r} at {info.host}:{info.port}"


def quoted(name: str) -> str:
    """The identifier as SQL writes it."""
    return sql.Identifier(name).as_string()


def first_cause(error: Exception) -> Exception:
    """The first error in a group of groups: what went wrong; the others follow from it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
