"""The app: connects checks, the refresh after migrate, and event_context to Django."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate, pre_migrate


class PgnotifyConfig(AppConfig):
    """``"django_pgnotify"`` in INSTALLED_APPS."""

    name = "django_pgnotify"
    verbose_name = "PostgreSQL notifications"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect what must run by itself; nothing is started and no database is touched."""
        self.connect_migrate()
        self.connect_context()
        self.register_checks()

    def connect_migrate(self) -> None:
        """Keep the ledger and the triggers up to date with ``migrate``."""
        from .publish.installer import after_migrate, before_migrate

        pre_migrate.connect(before_migrate, sender=self)
        post_migrate.connect(after_migrate, sender=self)

    def connect_context(self) -> None:
        """Let each connection carry ``event_context`` into its transactions: new ones, and those
        that another app's ``ready()`` has opened already."""
        from .publish.context import install_context

        connection_created.connect(install_context)
        for connection in connections.all(initialized_only=True):
            install_context(connection=connection)

    def register_checks(self) -> None:
        """System checks; those that connect have the ``database`` tag."""
        from .checks import check_declarations, check_settings
        from .database_checks import check_databases

        checks.register(check_settings)
        checks.register(check_declarations, checks.Tags.models)
        checks.register(check_databases, checks.Tags.database)
