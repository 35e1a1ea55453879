"""One table that is published in every way a declaration knows."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from django_pgnotify import NotifyTrigger


class Thing(models.Model):
    """A row that moves between rooms, hides, and changes its key."""

    id = models.BigIntegerField(primary_key=True)
    room = models.IntegerField(null=True)
    value = models.IntegerField()
    tag = models.CharField(max_length=60)
    """Of the statement that wrote the row last: no two are the same."""
    body = models.TextField()
    hidden = models.BooleanField(default=False)

    class Meta:
        constraints = [
            NotifyTrigger(
                name="thing_changes",
                fields=["id", "room", "value", "tag", "body"],
                groups=["all", "room-{room}"],
                on=["insert", "update", "delete", "truncate"],
                condition=Q(hidden=False),
                context=["tag"],
            )
        ]
