"""Four tables with the same columns: unpublished, ours in one group, ours in many, by hand."""

from __future__ import annotations

from django.db import models

from django_pgnotify import NotifyTrigger

PUBLISHED = ["id", "name", "value"]


class Columns(models.Model):
    """What each table has."""

    name = models.CharField(max_length=60)
    room = models.IntegerField(default=0)
    value = models.BigIntegerField(default=0)

    class Meta:
        abstract = True


class Plain(Columns):
    """No trigger: the floor."""

    class Meta:
        db_table = "plain"


class Thing(Columns):
    """Published by us, all rows in one group."""

    class Meta:
        db_table = "thing"
        constraints = [
            NotifyTrigger(name="thing_changes", fields=PUBLISHED, groups=["things"]),
        ]


class Roomed(Columns):
    """Published by us, each row in its room's group."""

    class Meta:
        db_table = "roomed"
        constraints = [
            NotifyTrigger(name="roomed_changes", fields=PUBLISHED, groups=["room-{room}"]),
        ]


class Noted(Columns):
    """Published as the usual blog post says: a row trigger that sends the row by pg_notify."""

    class Meta:
        db_table = "noted"
