"""Away: what Django's connections say of a database that is not there, and how they find out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import InterfaceError, OperationalError, connections

from ..connecting import SOCKET_OPTIONS

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

AWAY = (OperationalError, InterfaceError)
"""What a database that is away raises: it is waited for."""

SQLSTATES_OF_AWAY = ("08", "57P0", "53300")
"""How the SQLSTATEs begin of a connection that is lost or not to be had. Else Django's
OperationalError is also a statement's own: its time-out, a lock's, a deadlock."""


def is_away(error: BaseException) -> bool:
    """True if the database was not to be had, so that another try makes sense."""
    sqlstate = getattr(error.__cause__, "sqlstate", None)
    return isinstance(error, AWAY) and (
        sqlstate is None or sqlstate.startswith(SQLSTATES_OF_AWAY)
    )


def watchful_connection(alias: str) -> BaseDatabaseWrapper:
    """Django's connection of this thread, which has not opened it yet, made to notice a host that
    is gone; what the project says wins. One of a pool is left as the pool makes it."""
    connection, settings = connections[alias], connections.settings[alias]
    if connection.vendor == "postgresql" and not settings["OPTIONS"].get("pool"):
        options = {**SOCKET_OPTIONS, **settings["OPTIONS"]}
        connection.settings_dict = {**settings, "OPTIONS": options}
    return connection
