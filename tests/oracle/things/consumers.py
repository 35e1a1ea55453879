"""The consumers; all let everybody have everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import connection

from django_pgnotify.consumers import EventConsumer, EventStreamConsumer

from .models import Thing

FIELDS = ("id", "room", "value", "tag", "body")


class Plain(EventConsumer):
    """Clients read their state by SQL."""

    async def authorize(self, group: str) -> bool:
        """Yes."""
        return True


class Stream(EventStreamConsumer):
    """Server-Sent Events; clients read their state by SQL."""

    async def authorize(self, group: str) -> bool:
        """Yes."""
        return True


class WithSnapshot(Plain):
    """Clients get their state from ``snapshot()``."""

    def snapshot(self, group: str) -> Iterator[dict[str, Any]]:
        """First the very snapshot that the rows are read in, then the rows."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_snapshot()::text")
            yield {"snapshot": cursor.fetchone()[0]}
        things = Thing.objects.filter(hidden=False)
        if group != "all":
            things = things.filter(room=int(group.removeprefix("room-")))
        yield from things.values(*FIELDS)
