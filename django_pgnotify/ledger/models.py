"""Models over the tables of ``sql/objects.sql``: for the ORM and the admin, made by the installer.

Unmanaged, so that Django's ``flush`` (each ``TransactionTestCase``) never empties the registry of
triggers or rewinds ticks under a running relay.
"""

from __future__ import annotations

from typing import Any, Self

from django.db import connections, models


class OnPostgres(models.QuerySet[Any]):
    """Empty in other databases, which have no such table: dumpdata and the admin ask for all
    models there."""

    def using(self, alias: str | None) -> Self:
        """See Django."""
        rows = super().using(alias)
        return rows if connections[rows.db].vendor == "postgresql" else rows.none()


class InstalledTrigger(models.Model):
    """A trigger that stands in the database, as the SQL that made it recorded it."""

    pk = models.CompositePrimaryKey("schema", "name")
    schema = models.TextField()
    table = models.TextField()
    name = models.TextField()
    relation = models.PositiveBigIntegerField()
    function = models.TextField()
    declaration = models.JSONField()
    version = models.TextField()

    objects = OnPostgres.as_manager()

    class Meta:
        app_label = "django_pgnotify"
        managed = False
        db_table = "django_pgnotify_trigger"
        required_db_vendor = "postgresql"


class ParkedEvent(models.Model):
    """An event that a handler failed on for the last time: kept until somebody decides."""

    id = models.BigAutoField(primary_key=True)
    handler = models.TextField(help_text="Dotted name of the handler.")
    event = models.TextField(help_text="The event as JSON.")
    traceback = models.TextField(help_text="Of the last attempt.")
    attempts = models.IntegerField()
    retry = models.BooleanField(default=False, help_text="Asked to be tried once more.")
    parked_at = models.DateTimeField()

    objects = OnPostgres.as_manager()

    class Meta:
        app_label = "django_pgnotify"
        managed = False
        db_table = "django_pgnotify_parked"
        required_db_vendor = "postgresql"

    def __str__(self) -> str:
        return f"{self.handler}, parked {self.parked_at:%Y-%m-%d %H:%M:%S}"
