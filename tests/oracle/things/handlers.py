"""A handler that writes down what it is given."""

from __future__ import annotations

from django.db import connection

from django_pgnotify import Event, on_event

KEEP = "INSERT INTO oracle_handled (kind, pk, data) VALUES (%s, %s, %s)"


@on_event("thing_changes", start="oldest")
def keep(event: Event) -> None:
    """In autocommit: what happens twice is written down twice."""
    import json

    with connection.cursor() as cursor:
        cursor.execute(KEEP, [event.kind, event.pk, json.dumps(event.data)])
