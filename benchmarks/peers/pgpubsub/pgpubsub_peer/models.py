"""One table for each kind: a NOTIFY with the row, and a stored row besides."""

from __future__ import annotations

from django.db import models


class Columns(models.Model):
    """The columns that all variants have."""

    name = models.CharField(max_length=60)
    room = models.IntegerField(default=0)
    value = models.BigIntegerField(default=0)

    class Meta:
        abstract = True


class Sent(Columns):
    """At most once."""

    class Meta:
        db_table = "sent"


class Stored(Columns):
    """``lock_notifications``: stored by the trigger, deleted by the listener."""

    class Meta:
        db_table = "stored"
