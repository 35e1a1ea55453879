"""Handlers that write down what they are given, and fail now and then."""

from __future__ import annotations

import asyncio
import json
import os
import random

import psycopg
from django.db import connection

from django_pgnotify import Event, on_event

KEEP = "INSERT INTO oracle_handled (kind, pk, data) VALUES (%s, %s, %s)"
FAILS = 0.02
"""How often a handler raises; each time the event must come again, before its row's next."""


class Unlucky(Exception):
    """This attempt fails."""


class Book:
    """One asynchronous connection for all calls; whatever goes wrong on it ends it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[object] | None = None

    async def write(self, *values: object) -> None:
        """In autocommit: what happens twice is written down twice."""
        async with self._lock:
            try:
                if self._connection is None:
                    self._connection = await psycopg.AsyncConnection.connect(
                        os.environ["DATABASE_URL"], autocommit=True, connect_timeout=3
                    )
                await self._connection.execute(KEEP, values)
            except BaseException:
                broken, self._connection = self._connection, None
                if broken is not None:
                    await broken.close()
                raise


book = Book()


@on_event("thing_changes", start="oldest")
async def keep(event: Event) -> None:
    """Asynchronous, natively."""
    if random.random() < FAILS:
        raise Unlucky
    await book.write(event.kind, event.pk, json.dumps(event.data))


@on_event("told", start="oldest")
def keep_message(event: Event) -> None:
    """Synchronous, in a thread, on Django's connection."""
    if random.random() < FAILS:
        raise Unlucky
    with connection.cursor() as cursor:
        cursor.execute(KEEP, [event.kind, event.pk, json.dumps(event.data)])
