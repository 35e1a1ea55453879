"""Trimmer: runs the ledger's retention beside the relay, on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from datetime import timedelta

from psycopg import Error

from ..conf import settings
from ..connecting import connect_listener
from ..ledger.retention import trim

logger = logging.getLogger("django_pgnotify")

APPLICATION_NAME = "django_pgnotify retention"
RUNS_PER_RETENTION = 4
MAX_INTERVAL_SECONDS = 60.0
MIN_INTERVAL_SECONDS = 0.1
"""Even with a tiny retention: each run connects anew."""


def interval_seconds(retention: timedelta) -> float:
    """Between two runs: a quarter of the retention, and at most a minute."""
    quarter = retention.total_seconds() / RUNS_PER_RETENTION
    return max(MIN_INTERVAL_SECONDS, min(quarter, MAX_INTERVAL_SECONDS))


async def trim_now_and_then(alias: str, schema: str, handlers: Collection[str]) -> None:
    """Trim until cancelled. A failure is logged, and the next run comes all the same."""
    while True:
        try:
            async with await connect_listener(
                alias, application_name=APPLICATION_NAME
            ) as connection:
                rows = await trim(
                    connection, schema, retention=settings.RETENTION, handlers=handlers
                )
            logger.debug("Trimmed %s ledger rows.", rows, extra={"action": "trimmed"})
        except (Error, OSError) as error:
            logger.warning("The ledger was not trimmed: %s", error)
        await asyncio.sleep(interval_seconds(settings.RETENTION))
