"""Unclaimed: retries that somebody asked for, of handlers that this code does not have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import LiteralString

from psycopg import sql

from ..conf import settings
from ..ledger.ticks import Connection

logger = logging.getLogger("django_pgnotify")

POLLS_PER_LOOK = 30
"""Half a minute: whoever asked in the admin still looks at it."""

UNCLAIMED: LiteralString = """
    SELECT DISTINCT handler FROM {schema}.django_pgnotify_parked
    WHERE retry AND handler <> ALL (%s)
"""


async def tell_of_unclaimed(
    connection: Connection, schema: str, handlers: Collection[str]
) -> None:
    """Log each name once, until cancelled: else they would wait for ever without a word."""
    query = sql.SQL(UNCLAIMED).format(schema=sql.Identifier(schema))
    told: set[str] = set()
    while True:
        cursor = await connection.execute(query, [[*handlers, *told]])
        for (name,) in await cursor.fetchall():
            told.add(name)
            logger.warning(
                "No handler is named %s: the retries of its parked events wait.",
                name,
                extra={"action": "handler-gone"},
            )
        await asyncio.sleep(POLLS_PER_LOOK * settings.POLL_SECONDS)
