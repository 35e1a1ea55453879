"""Operations for migrations: InstallLedger for our own, AddNotifyTrigger for third-party models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import router
from django.db.migrations.operations.base import Operation

from .ledger.install import install_sql, schema_for_ledger, uninstall_sql

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import ProjectState


class InstallLedger(Operation):
    """Make the ledger's tables and functions; reversed, drop them and every trigger first, so
    that no write breaks. Does nothing on other databases than PostgreSQL."""

    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        """The models are in the state by their own operations."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: Any,
        to_state: Any,
    ) -> None:
        """Run ``sql/objects.sql``."""
        connection = schema_editor.connection
        if _concerns(connection, app_label):
            schema_editor.execute(install_sql(connection, schema_for_ledger(connection)), None)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: Any,
        to_state: Any,
    ) -> None:
        """Take all triggers away, then the objects."""
        from .publish.registry import drop_all_sql

        connection = schema_editor.connection
        if _concerns(connection, app_label):
            schema = schema_for_ledger(connection)
            schema_editor.execute(drop_all_sql(connection, schema), None)
            schema_editor.execute(uninstall_sql(connection, schema), None)

    def describe(self) -> str:
        """For ``sqlmigrate`` and ``showmigrations --plan``."""
        return "Install the ledger of django_pgnotify"


def _concerns(connection: Any, app_label: str) -> bool:
    return connection.vendor == "postgresql" and router.allow_migrate(
        connection.alias, app_label
    )
