"""The table with the columns that all variants have."""

from __future__ import annotations

from django.db import models


class Thing(models.Model):
    """Observed."""

    name = models.CharField(max_length=60)
    room = models.IntegerField(default=0)
    value = models.BigIntegerField(default=0)
