"""The app: connects checks, the refresh after migrate, and event_context to Django."""

from __future__ import annotations

from django.apps import AppConfig


class PgnotifyConfig(AppConfig):
    """``"django_pgnotify"`` in INSTALLED_APPS."""

    name = "django_pgnotify"
    verbose_name = "PostgreSQL notifications"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect what must run by itself; nothing is started and no database is touched."""
