"""Install: what Django's migrate signals bring up to date, idempotently, on PostgreSQL only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps as global_apps
from django.db import connections, router

from ..conf import settings
from ..ledger.install import (
    has_begun,
    install_sql,
    installed_version,
    schema_for_ledger,
    schema_of_ledger,
    version,
)
from .registry import refresh

if TYPE_CHECKING:
    from django.apps.registry import Apps
    from django.db.backends.base.base import BaseDatabaseWrapper

APP = "django_pgnotify"


def before_migrate(*, using: str, **kwargs: Any) -> None:
    """Bring an installed ledger up to date first: triggers that the users' migrations install
    call its functions."""
    connection = connections[using]
    if connection.vendor == "postgresql" and schema_of_ledger(connection) is not None:
        _install(connection)


def after_migrate(*, using: str, apps: Apps = global_apps, **kwargs: Any) -> None:
    """Make the ledger where no migration did (tests without migrations), and set triggers right.
    ``apps`` holds the models as migrated, so a declaration whose migration waits is left alone."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    if apps.all_models.get(APP):
        _install(connection)
    schema = schema_of_ledger(connection)
    if schema is not None:
        _tell_max_bytes(connection, schema)
        refresh(connection, apps)


def _install(connection: BaseDatabaseWrapper) -> None:
    schema = schema_for_ledger(connection)
    if not router.allow_migrate(connection.alias, APP):
        return
    if installed_version(connection, schema) != version() or not has_begun(connection, schema):
        with connection.schema_editor(atomic=True) as editor:
            editor.execute(install_sql(connection, schema), None)


def _tell_max_bytes(connection: BaseDatabaseWrapper, schema: str) -> None:
    """The triggers keep to LEDGER_MAX_BYTES, even if no pglisten ever runs."""
    state = f"{connection.ops.quote_name(schema)}.django_pgnotify_state"
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {state} SET max_bytes = %s WHERE max_bytes <> %s",
            [settings.LEDGER_MAX_BYTES] * 2,
        )
