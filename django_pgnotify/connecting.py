"""Connecting: our own asynchronous connections, with the options of a Django database alias.

They are never Django's connection: a NOTIFY must not wait for a user's transaction, and a
listener that sits in a transaction hears nothing and fills the server's notify queue.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connections

from .conf import settings
from .ending import within
from .exceptions import ListenerRefused

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.abc import Query

APPLICATION_NAME = "django_pgnotify"

SOCKET_OPTIONS = {
    # A silent peer is noticed after 10 + 3 * 5 = 25 seconds; the system's default is two hours.
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # Milliseconds that sent data may stay unacknowledged; keepalives don't run meanwhile.
    "tcp_user_timeout": 25_000,
}

DJANGO_ONLY = ("cursor_factory", "context", "pool")
"""What Django adds for its own synchronous connections."""

UNLIMITED = """
    SELECT set_config(name, '0', false) FROM pg_settings
    WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_session_timeout')
"""
"""What a role or a database sets for its web requests; we wait for locks, read for minutes, and are
silent for seconds."""

READ_COMMITTED = "SET default_transaction_isolation = 'read committed'"
"""Whatever a role or a database sets: our statements are written to be repeated by nobody."""

LIBPQ_NAMES = {
    "NAME": "dbname",
    "USER": "user",
    "PASSWORD": "password",
    "HOST": "host",
    "PORT": "port",
}
"""Django's words in ``PGNOTIFY["LISTENER"]`` are understood too."""


def connection_parameters(
    alias: str, *, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return keyword arguments for ``psycopg.AsyncConnection.connect``.

    They are read at each call, so that a backend which renews its password is heard.
    `overrides` win over the alias's options, and these over our defaults.
    """
    connection = connections[alias]
    if connection.vendor != "postgresql":
        raise ListenerRefused(
            f"The database {alias!r} is {connection.vendor}; django_pgnotify needs PostgreSQL."
        )
    of_alias = connection.get_connection_params()
    for key in DJANGO_ONLY:
        of_alias.pop(key, None)
    ours = {
        **SOCKET_OPTIONS,
        "connect_timeout": settings.CONNECT_TIMEOUT_SECONDS,
        "application_name": APPLICATION_NAME,
    }
    laid_over = {LIBPQ_NAMES.get(key, key): value for key, value in (overrides or {}).items()}
    return {**ours, **of_alias, **laid_over}


def unknown_option(options: Mapping[str, Any]) -> str:
    """Say which of these connection options libpq does not know; empty if it knows all."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import make_conninfo

    named = {LIBPQ_NAMES.get(key, str(key)): value for key, value in options.items()}
    try:
        make_conninfo("", **named)
    except ProgrammingError as error:
        return str(error).strip()
    return ""


async def connect(
    alias: str, *, application_name: str, overrides: Mapping[str, Any] | None = None
) -> AsyncConnection[Any]:
    """Open an autocommit connection to `alias`, under the role that the alias assumes."""
    from psycopg import sql

    from .interruptible import InterruptibleConnection

    parameters = connection_parameters(alias, overrides=overrides)
    parameters |= {"application_name": application_name, "autocommit": True}
    connection = await InterruptibleConnection.open(**parameters)
    role = connections[alias].settings_dict["OPTIONS"].get("assume_role")
    if role:
        await execute_first(connection, sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
    return connection


async def connect_listener(alias: str, *, application_name: str) -> AsyncConnection[Any]:
    """Open the direct connection for LISTEN: `alias`, or what ``PGNOTIFY["LISTENER"]`` says. An
    alias there stands in for ``default`` only: it is one database, and `alias` may be another."""
    listener = settings.LISTENER
    if isinstance(listener, str):
        direct = listener if alias == DEFAULT_DB_ALIAS else alias
        connection = await connect(direct, application_name=application_name)
    else:
        connection = await connect(alias, application_name=application_name, overrides=listener)
    await execute_first(connection, UNLIMITED, READ_COMMITTED)
    return connection


async def execute_first(connection: AsyncConnection[Any], *queries: Query) -> None:
    """Run what a new connection begins with. It is closed if that fails, or takes longer than to
    connect may take: a server that is frozen raises nothing."""

    async def execute() -> None:
        for query in queries:
            await connection.execute(query)

    try:
        await within(settings.CONNECT_TIMEOUT_SECONDS, execute())
    except BaseException:
        await connection.close()
        raise


@contextmanager
def aborted_after(seconds: float, connection: AsyncConnection[Any]) -> Iterator[None]:
    """End the connection unless the block is done in time; who waits in it gets an error."""
    timer = asyncio.get_running_loop().call_later(seconds, abort, connection)
    try:
        yield
    finally:
        timer.cancel()


def abort(connection: AsyncConnection[Any]) -> None:
    """End the connection at once, so that whoever waits on it gets an error.

    A frozen server answers neither a query nor its cancellation, for which psycopg waits for
    seconds; a socket that is shut down ends both.
    """
    if connection.closed:
        return
    with suppress(OSError):
        ours = socket.socket(fileno=os.dup(connection.fileno()))
        with ours:
            ours.shutdown(socket.SHUT_RDWR)
